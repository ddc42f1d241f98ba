"""The mapped mirror: a small linear map from the flipped base feature to the feature of the flipped image."""

from __future__ import annotations

from collections.abc import Mapping
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
    """weight float32[C, C, K, K] and bias float32[C] over the zero-padded places; [D, D] and [D] where there are none.

    class_weight float32[k, D, D] and class_bias float32[k, D] are the class tokens' own maps, None elsewhere. `relu`
    where the features are nonnegative.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    relu: bool
    spec: FeatureSpec
    class_weight: torch.Tensor | None = None
    class_bias: torch.Tensor | None = None

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Base features [B, *shape] -> features of the flipped images, nearly: the same shape and dtype.

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
    def from_arrays(arrays: Mapping[str, np.ndarray[Any, Any]], spec: FeatureSpec, relu: bool) -> MirrorMap:
        """Read `to_arrays`' output. Raises FormatError where an array is missing or does not fit the feature."""
        weight = arrays.get("mirror_weight")
        c, k = spec.channels, spec.class_tokens if spec.spatial is not None else 0
        if weight is None:
            raise FormatError("mirror map: no array 'mirror_weight' in the calibration")
        side = weight.shape[-1] if weight.ndim == 4 else 0
        if spec.spatial is None:
            shapes = {"mirror_weight": (c, c), "mirror_bias": (c,)}
        else:
            if side % 2 == 0 or side > LARGEST_KERNEL:
                raise FormatError(f"mirror map: expected weights [C, C, K, K] with K odd, found {list(weight.shape)}")
            shapes = {"mirror_weight": (c, c, side, side), "mirror_bias": (c,)}
        if k:
            shapes |= {"mirror_class_weight": (k, c, c), "mirror_class_bias": (k, c)}
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
