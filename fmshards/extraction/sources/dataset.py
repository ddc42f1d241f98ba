"""A map-style data set from Python: anything with `len()` and `[i]` that gives images."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from fmshards.errors import InputError
from fmshards.extraction.sources.base import Item, Sample
from fmshards.extraction.sources.classes import check_label, class_difference
from fmshards.extraction.sources.columns import encoded_image, feature_classes
from fmshards.extraction.sources.image import decode_image
from fmshards.model.image import to_rgb, upper_bits
from fmshards.shards import InputShard, field_value

_IMAGE_KEYS = ("image", "img", "jpg", "jpeg", "png", "webp", "pixel_values")


class DatasetSource:
    """`data[i]` is an image, `(image, label)`, or a dict with the image under `image_field` (default: `image`, `img`,
    `jpg` ...).

    An image is a PIL image, an array or tensor (H, W), (H, W, C) or (C, H, W) of uint8 or uint16, or encoded bytes,
    in a dict as `bytes` too (Hugging Face's images that are not decoded). Only encoded bytes are turned as their EXIF
    says (`orientation`): a PIL image is taken as the data set gives it. A label, and a dict's `label` where it has no
    `cls`, becomes the field `cls`; a dict's other values travel under their names, and its `__key__` is the key, which
    is else the index. Numpy and torch values travel as plain numbers and lists.
    Input shards are virtual: `shard_size` samples each, in the data set's own order.

    classes: the names that `cls` numbers; by default the data set's own `classes`, where it has names there, else those
    of the label's ClassLabel in its `features`, as Hugging Face's `datasets` have them.
    """

    def __init__(
        self,
        data: Any,
        shard_size: int,
        image_field: str | None = None,
        *,
        classes: tuple[str, ...] | None = None,
        orientation: str = "apply",
    ) -> None:
        self.data, self.shard_size, self.image_field = data, shard_size, image_field
        self.orientation = orientation
        if isinstance(data, Mapping) and data and 0 not in data:
            splits = ", ".join(map(repr, list(data)[:5]))
            raise InputError(
                f"{type(data).__name__} is a dict of {splits}; expected a data set: give one split of it, as in "
                "data['train']"
            )
        try:
            self.length = len(data)
        except TypeError:
            raise InputError(
                f"a data set needs len() and [i]; {type(data).__name__} has no len(): make a list of it"
            ) from None
        if not self.length:
            raise InputError(f"the data set ({type(data).__name__}) is empty")
        own = _own_classes(data)
        self.classes = classes or own
        self._numbered = classes is not None
        if problem := class_difference(own, classes):
            raise InputError(f"the data set ({type(data).__name__}): {problem}; it numbers them itself")
        self.inputs = tuple(
            InputShard(
                name=f"{i:06d}",
                url=f"dataset:{type(data).__name__}",
                bytes=None,
                samples=self.work(i),
                digest=None,
            )
            for i in range(-(-self.length // shard_size))
        )

    def options(self) -> dict[str, Any]:
        turned = {} if self.orientation == "ignore" else {"orientation": self.orientation}
        return {"source": "dataset", "shard_size": self.shard_size, "image_field": self.image_field, **turned}

    def work(self, shard: int) -> int:
        return min(self.shard_size, self.length - shard * self.shard_size)

    def items(self, shard: int) -> Generator[Item, None, None]:
        first = shard * self.shard_size
        for i in range(first, first + self.work(shard)):
            yield Item(f"{i:08d}", i, {}, i - first + 1)

    def fetched(self, items: Sequence[Item]) -> Sequence[Item]:
        return items

    def load(self, item: Item) -> Sample:
        value = self.data[item.data]
        key = item.key
        if isinstance(value, Mapping):
            fields = dict(value)
            image = fields.pop(self._image_key(fields))
            key = str(fields.pop("__key__", key))
            if "label" in fields and "cls" not in fields:
                fields["cls"] = fields.pop("label")
        elif isinstance(value, (tuple, list)):
            if len(value) != 2:
                raise InputError(f"a sample is a tuple of {len(value)}; expected (image, label) or a dict")
            image, fields = value[0], {"cls": value[1]}
        else:
            image, fields = value, {}
        plain = {str(name): field_value(field, f"the field {name!r}") for name, field in fields.items()}
        if self._numbered and self.classes:
            check_label(plain, self.classes)
        return Sample(key, to_image(image, self.orientation), plain)

    def loaded(self, shard: int, digests: Sequence[bytes]) -> None:
        """Nothing: a data set's samples have no bytes to digest."""

    def stamp(self, shard: int) -> str | None:
        return None

    def content(self, shard: int) -> str | None:
        return None

    def digest_read(self, shard: int) -> str | None:
        return None

    def fingerprint(self) -> str | None:
        """The data set's `fingerprint` (text, a number, or a method that gives one), else a Hugging Face one's own."""
        for name in ("fingerprint", "_fingerprint"):
            found = getattr(self.data, name, None)
            found = found() if callable(found) else found
            if isinstance(found, (str, int)) and not isinstance(found, bool):
                return str(found)
            if found is not None:
                raise InputError(
                    f"the data set's {name} is a {type(found).__name__}; expected text that changes when its samples do"
                )
        return None

    def _image_key(self, fields: dict[str, Any]) -> str:
        names = (self.image_field,) if self.image_field else _IMAGE_KEYS
        found = [name for name in names if name in fields]
        if len(found) != 1:
            have = ", ".join(map(str, fields))
            raise InputError(
                f"a sample has {'several images' if found else 'no image'} under {', '.join(names)} (it has {have}); "
                "name the image with image_field="
            )
        return found[0]


def _own_classes(data: Any) -> tuple[str, ...] | None:
    names = getattr(data, "classes", None)
    named = isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names)
    return tuple(names) if named and names else feature_classes(getattr(data, "features", None))


_WHOLE = (np.dtype(np.uint8), np.dtype(np.uint16))


def to_image(value: Any, orientation: str = "apply") -> Image.Image:
    """The RGB image of a PIL image, an array or tensor of uint8 or uint16, or encoded bytes. Raises InputError."""
    if isinstance(value, Image.Image):
        return to_rgb(value)
    if isinstance(value, Mapping) and "bytes" in value:
        value = encoded_image(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return decode_image(bytes(value), orientation)
    channels = (1, 3, 4)
    if isinstance(value, torch.Tensor):
        # Where both ends could be channels, a tensor is (C, H, W) and an array (H, W, C), as is the custom.
        first = value.ndim == 3 and value.shape[0] in channels
        array = value.detach().cpu().numpy() if value.dtype in (torch.uint8, torch.uint16) else None
    else:
        array = value if isinstance(value, np.ndarray) and value.dtype in _WHOLE else None
        first = array is not None and array.ndim == 3 and array.shape[-1] not in channels
    if array is None:
        kind = getattr(value, "dtype", type(value).__name__)
        raise InputError(
            f"an image is of type {kind}; expected a PIL image, an array or tensor of uint8, or encoded bytes: take "
            "ToTensor and normalisation out of the data set, preprocess= does them"
        )
    if first:
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if (array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in channels)) or 0 in array.shape:
        raise InputError(f"an image has the shape {tuple(value.shape)}; expected (H, W), (H, W, C) or (C, H, W)")
    if array.dtype == np.uint16:
        array = upper_bits(array)
    return to_rgb(Image.fromarray(np.ascontiguousarray(array)))
