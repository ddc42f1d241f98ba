"""Features of flipped images put together from what is stored of them and what stands in for the rest, and moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fmshards.augment.features import LayerMove, move
from fmshards.augment.features.channels import replace as put
from fmshards.augment.mirror_map import MirrorMap


@dataclass(frozen=True, eq=False)
class MirrorParts:
    """How one layer's mirror comes about where it is not simply stored; made by `of`.

    layer: how its features move. rest: the map of the channels that are not stored; None where the base's own stand in,
    or there are none. stored_move: how the stored channels move; at int64[k]: which they are. order int64[C]: where
    each channel is in the stored ones and the others, side by side.
    """

    layer: LayerMove
    rest: MirrorMap | None
    stored_move: LayerMove | None
    at: torch.Tensor
    order: torch.Tensor

    @staticmethod
    def of(layer: LayerMove, channels: Sequence[int] = (), rest: MirrorMap | None = None) -> MirrorParts:
        """channels: those that are stored, rising; () where none are. rest: the map that gives all others, in rising
        order; None where none is mapped: the others are the base's own, moved by the whole theta, flip and all, as with
        mirror `none` (or there are no others)."""
        spec, at = layer.spec, torch.tensor(list(channels), dtype=torch.long)
        others = [c for c in range(spec.channels) if c not in set(channels)]
        order = torch.tensor([*channels, *others], dtype=torch.long).argsort()
        stored = None
        if channels:
            fill = None if layer.fill is None else layer.fill.index_select(spec.channel_axis, at.to(layer.fill.device))
            stored = LayerMove(spec.select(len(channels)), layer.base_size, layer.grid, fill)
        device = torch.device("cpu") if layer.fill is None else layer.fill.device
        return MirrorParts(layer, rest, stored, at, order).on(device)

    def move(
        self,
        x: torch.Tensor,
        stored: torch.Tensor | None,
        theta: torch.Tensor,
        mirrored: torch.Tensor,
        view: torch.Tensor | None = None,
        dtype: torch.dtype | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> torch.Tensor:
        """Base features x [B, *shape] as `move` moves their references, those of `mirrored` bool[B] being the mirror.

        stored: [B, *shape of the stored channels], of the flipped images; what it holds for others is of no account.
        None: no sample is mirrored, or no channel stored. x may be written to. The rest is as in `move`; each stored
        channel comes as it would of a mirror that is stored whole.
        """
        if not self._flips or stored is None or self.stored_move is None:
            x = self.reference(x, stored, mirrored)
            return move(x, theta, mirrored, self.layer, view, dtype, memory_format)
        out = move(x, theta, torch.zeros_like(mirrored), self.layer, None, dtype, memory_format)
        axis = self.layer.spec.channel_axis + 1
        if may_look(x):
            where = mirrored.nonzero().flatten()
            moved = move(stored[where], theta[where], mirrored[where], self.stored_move, None, out.dtype)
            out.movedim(axis, 1)[where[:, None], self.at] = moved.movedim(axis, 1)
        else:
            moved = move(stored, theta, mirrored, self.stored_move, None, out.dtype, memory_format)
            kept = torch.where(_wide(mirrored, x), moved, out.index_select(axis, self.at))
            out.index_copy_(axis, self.at, kept)
        if view is None:
            return out
        return put(out, view, self.layer.sensitive, self.layer.spec).contiguous(memory_format=memory_format)

    def reference(self, x: torch.Tensor, stored: torch.Tensor | None, mirrored: torch.Tensor) -> torch.Tensor:
        """x [B, *shape] with the mirror in place of the base where `mirrored`, unmoved; x may be written to.

        Not where the others are the base's own: these are flipped by being moved.
        """
        if stored is None and (self.stored_move is not None or self.rest is None):
            return x
        if not may_look(x):
            return torch.where(_wide(mirrored, x), self._whole(x, stored), x)
        if bool(mirrored.any()):
            x[mirrored] = self._whole(x[mirrored], None if stored is None else stored[mirrored])
        return x

    def on(self, device: torch.device) -> MirrorParts:
        """The same on a device."""
        rest, stored = None if self.rest is None else self.rest.to(device), self.stored_move
        stored = None if stored is None else stored.on(device)
        return MirrorParts(self.layer.on(device), rest, stored, self.at.to(device), self.order.to(device))

    @property
    def _flips(self) -> bool:
        """Whether channels of the base stand in as they are."""
        return self.rest is None and len(self.at) < self.layer.spec.channels

    def _whole(self, x: torch.Tensor, stored: torch.Tensor | None) -> torch.Tensor:
        """Features of the flipped images of x, both [B, *shape], from the stored channels and the map."""
        rest = None if self.rest is None else self.rest.apply(x)
        if rest is None or stored is None:
            whole = stored if rest is None else rest
            assert whole is not None  # something is mapped or stored
            return whole
        axis = self.layer.spec.channel_axis + 1
        return torch.cat([stored.to(x.dtype), rest], axis).index_select(axis, self.order)


def may_look(x: torch.Tensor) -> bool:
    """Whether the host may ask for values: a device would have to be waited for, and a compiled graph breaks."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _wide(mirrored: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """bool[B] so that it goes with [B, *shape]."""
    return mirrored.view(-1, *[1] * (x.dim() - 1))
