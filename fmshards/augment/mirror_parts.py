"""Features of flipped images put together from what is stored of them and what stands in for the rest, and moved."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from fmshards.augment.features import LayerMove, move
from fmshards.augment.features.channels import positions
from fmshards.augment.features.channels import replace as put
from fmshards.augment.mirror_map import MirrorMap


@dataclass(frozen=True, eq=False)
class MirrorParts:
    """How one layer's mirror comes about where it is not simply stored.

    layer: how its features move. channels: those that are stored, rising; () where none are. rest: the map that gives
    all others, in rising order; None where none is mapped: the others are the base's own, moved by the whole theta,
    flip and all, as with mirror `none` (or there are no others).
    """

    layer: LayerMove
    channels: tuple[int, ...] = ()
    rest: MirrorMap | None = None
    _own: LayerMove = field(init=False)
    """How the stored channels move."""

    def __post_init__(self) -> None:
        layer, spec = self.layer, self.layer.spec
        fill = layer.fill
        if fill is not None and self.channels:
            fill = fill.index_select(spec.channel_axis, positions(self.channels, fill.device))
        own = LayerMove(spec.select(len(self.channels)), layer.base_size, layer.grid, fill) if self.channels else layer
        object.__setattr__(self, "_own", own)

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
        if not self._flips or stored is None:
            x = self.reference(x, stored, mirrored)
            return move(x, theta, mirrored, self.layer, view, dtype, memory_format)
        out = move(x, theta, torch.zeros_like(mirrored), self.layer, None, dtype, memory_format)
        spec, axis = self.layer.spec, self.layer.spec.channel_axis + 1
        if may_look(x):
            at = mirrored.nonzero().flatten()
            moved = move(stored[at], theta[at], mirrored[at], self._own, None, out.dtype)
            first = out.movedim(axis, 1)
            first[at[:, None], positions(self.channels, x.device)] = moved.movedim(axis, 1)
        else:
            moved = move(stored, theta, mirrored, self._own, None, out.dtype, memory_format)
            where = positions(self.channels, x.device)
            kept = torch.where(_wide(mirrored, x), moved, out.index_select(axis, where))
            out.index_copy_(axis, where, kept)
        return (
            out if view is None else put(out, view, self.layer.sensitive, spec).contiguous(memory_format=memory_format)
        )

    def reference(self, x: torch.Tensor, stored: torch.Tensor | None, mirrored: torch.Tensor) -> torch.Tensor:
        """x [B, *shape] with the mirror in place of the base where `mirrored`, unmoved; x may be written to.

        Not where the others are the base's own: these are flipped by being moved.
        """
        if stored is None and (self.channels or self.rest is None):
            return x
        if not may_look(x):
            return torch.where(_wide(mirrored, x), self._whole(x, stored), x)
        if bool(mirrored.any()):
            x[mirrored] = self._whole(x[mirrored], None if stored is None else stored[mirrored])
        return x

    def on(self, device: torch.device) -> MirrorParts:
        """The same with fill and map on a device."""
        rest = None if self.rest is None else self.rest.to(device)
        return replace(self, layer=self.layer.on(device), rest=rest)

    @property
    def _flips(self) -> bool:
        """Whether channels of the base stand in as they are."""
        return self.rest is None and len(self.channels) < self.layer.spec.channels

    def _whole(self, x: torch.Tensor, stored: torch.Tensor | None) -> torch.Tensor:
        """Features of the flipped images of x, both [B, *shape], from the stored channels and the map."""
        rest = None if self.rest is None else self.rest.apply(x)
        if rest is None or stored is None:
            whole = stored if rest is None else rest
            assert whole is not None  # something is mapped or stored
            return whole
        count, axis = self.layer.spec.channels, self.layer.spec.channel_axis + 1
        others = [c for c in range(count) if c not in set(self.channels)]
        place = {c: i for i, c in enumerate([*self.channels, *others])}
        where = positions(tuple(place[c] for c in range(count)), x.device)
        return torch.cat([stored.to(x.dtype), rest], axis).index_select(axis, where)


def may_look(x: torch.Tensor) -> bool:
    """Whether the host may ask for values: a device would have to be waited for, and a compiled graph breaks."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _wide(mirrored: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """bool[B] so that it goes with [B, *shape]."""
    return mirrored.view(-1, *[1] * (x.dim() - 1))
