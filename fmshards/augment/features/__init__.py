"""Moving features as their images would move, with the channels that a view stores put in.

move.py         the one function; it finds what can do it fastest where the features are
layer_move.py   what it needs to know of a layer
on_cpu.py       float32 on a CPU in one pass, along the axes: numba, cpu_kernel.py on the vectors of vectors.py
on_cuda.py      one kernel on a CUDA device: Triton, cuda_kernel.py
on_torch.py     any affine map, dtype and device, in torch's own operations
places.py       every kind of feature that has places as a map
channels.py     a view's stored channels put into a feature
"""

from __future__ import annotations

from fmshards.augment.features.channels import replace
from fmshards.augment.features.layer_move import LayerMove
from fmshards.augment.features.move import move

__all__ = ["LayerMove", "move", "replace"]
