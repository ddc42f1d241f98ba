"""The mapped mirror: a small linear map from the flipped base feature to that of the flipped image, or some of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fmshards.augment.features.places import from_map, to_map
from fmshards.augment.mirror import LARGEST_KERNEL
from fmshards.codec import FeatureSpec
from fmshards.errors import FormatError


@dataclass(frozen=True)
class MirrorMap:
    """weight float32[R, C, K, K] and bias float32[R] over the zero-padded places; [R, D] and [R] where there are none.

    R are the channels that it gives: all C (or D), or of a mirror that is stored in part the others. class_weight
    float32[k, R, D] and class_bias float32[k, R] are the class tokens' own maps, None elsewhere. `relu` where the
    features are nonnegative. spec: of whole features.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    relu: bool
    spec: FeatureSpec
    class_weight: torch.Tensor | None = None
    class_bias: torch.Tensor | None = None

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Base features [B, *shape] -> R channels of the flipped images' features, nearly: [B, *shape of R channels].

        Flip, then one convolution; class tokens, vectors and tokens without a grid have no places and are
        mapped as they are.
        """
        own = self.to(x.device, x.dtype)
        if self.spec.spatial is None:
            out = F.linear(x, own.weight, own.bias)
        else:
            places = to_map(x, self.spec).flip(-1)
            moved = F.conv2d(places, own.weight, own.bias, padding=self.weight.shape[-1] // 2)
            if own.class_weight is not None and own.class_bias is not None:
                k = self.spec.class_tokens
                x = torch.einsum("bkd,ked->bke", x[:, :k], own.class_weight) + own.class_bias
            out = from_map(moved, x, self.spec)
        return F.relu(out) if self.relu else out

    def select(self, channels: Sequence[int]) -> MirrorMap:
        """The map that gives these of its channels alone, in this order."""
        at = torch.tensor(list(channels), dtype=torch.long)
        classes: dict[str, Any] = {}
        if self.class_weight is not None and self.class_bias is not None:
            classes = {"class_weight": self.class_weight[:, at], "class_bias": self.class_bias[:, at]}
        return replace(self, weight=self.weight[at], bias=self.bias[at], **classes)

    @property
    def kernel(self) -> int:
        """The odd side of the map; 1 where there are no places."""
        return self.weight.shape[-1] if self.weight.ndim == 4 else 1

    @property
    def multiplications(self) -> int:
        """What `apply` takes for one sample."""
        return self.spec.map_multiplications(self.kernel, len(self.bias))

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> MirrorMap:
        """The same map on a device, in a dtype; itself where nothing changes."""
        if self.weight.device == torch.device(device) and self.weight.dtype == dtype:
            return self
        names = ("weight", "bias", "class_weight", "class_bias")
        tensors = {n: getattr(self, n) for n in names if getattr(self, n) is not None}
        return replace(self, **{n: t.to(device, dtype) for n, t in tensors.items()})

    def to_arrays(self) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """float32: `mirror_weight`, `mirror_bias`; with class tokens `mirror_class_weight`, `mirror_class_bias` too."""
        names = ("weight", "bias", "class_weight", "class_bias")
        tensors = {n: getattr(self, n) for n in names if getattr(self, n) is not None}
        return {f"mirror_{n}": t.float().cpu().contiguous().numpy() for n, t in tensors.items()}

    @staticmethod
    def from_arrays(
        arrays: Mapping[str, np.ndarray[Any, Any]], spec: FeatureSpec, relu: bool, outputs: int | None = None
    ) -> MirrorMap:
        """Read `to_arrays`' output, of a map of so many channels (None: all).

        Raises FormatError where an array is missing or does not fit the feature.
        """
        weight, r = arrays.get("mirror_weight"), spec.channels if outputs is None else outputs
        c, k = spec.channels, spec.class_tokens if spec.spatial is not None else 0
        if weight is None:
            raise FormatError("mirror map: no array 'mirror_weight' in the calibration")
        side = weight.shape[-1] if weight.ndim == 4 else 0
        if spec.spatial is None:
            shapes = {"mirror_weight": (r, c), "mirror_bias": (r,)}
        else:
            if side % 2 == 0 or side > LARGEST_KERNEL:
                raise FormatError(f"mirror map: expected weights [R, C, K, K] with K odd, found {list(weight.shape)}")
            shapes = {"mirror_weight": (r, c, side, side), "mirror_bias": (r,)}
        if k:
            shapes |= {"mirror_class_weight": (k, r, c), "mirror_class_bias": (k, r)}
        for name, shape in shapes.items():
            found = arrays.get(name)
            if found is None or found.shape != shape or not np.isfinite(found).all():
                what = "nothing" if found is None else f"{found.dtype}{list(found.shape)}"
                raise FormatError(f"mirror map: expected finite {name} {list(shape)}, found {what}")
        tensors = {n: torch.from_numpy(np.array(arrays[n], dtype=np.float32)) for n in shapes}
        return MirrorMap(
            tensors["mirror_weight"],
            tensors["mirror_bias"],
            relu,
            spec,
            tensors.get("mirror_class_weight"),
            tensors.get("mirror_class_bias"),
        )
