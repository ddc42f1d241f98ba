"""What a prefix is: the identity that decides whether features may be used with a model, and what differs where not."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from fmshards.errors import ModelError
from fmshards.model.graph.bare import bare, is_bare
from fmshards.model.graph.content import (
    Piece,
    float_types,
    graph_digest,
    node_at,
    parts,
    pieces,
    state_digest,
)
from fmshards.model.graph.example import image_channels, image_type, synthetic_image
from fmshards.model.graph.modes import kept_generators, mode, seed
from fmshards.model.graph.run import run
from fmshards.model.graph.trace import Trace, trace
from fmshards.model.graph.values import Contents
from fmshards.model.unwrap import unwrap

_PROBE = 16
# Between two machines' features of one image, by their root mean square: other kernels, TF32; and a half precision.
_NOISE, _HALF_NOISE = 1e-2, 1e-1
_HALVES = (torch.float16, torch.bfloat16)
_PRECISIONS = {torch.float16: "half precision (float16)", torch.bfloat16: "half precision (bfloat16)"}


class Identities:
    """The identities of a model's prefixes: the model is traced once, each tensor read once or twice."""

    def __init__(self, model: nn.Module) -> None:
        self.model = unwrap(model)
        self._bare = bare(self.model)
        self._contents = Contents()
        self._found: dict[str, dict[str, str]] = {}

    def layer(self, cut: str) -> dict[str, str]:
        """{"cut", "prefix", "graph"} of a cut, see `layer_identity`."""
        if cut not in self._found:
            model, traced, node = self._at(cut)
            self._found[cut] = {
                "cut": cut,
                "prefix": state_digest(model, traced, node),
                "graph": graph_digest(self.pieces(cut)),
            }
        return dict(self._found[cut])

    def pieces(self, cut: str) -> list[Piece]:
        model, traced, node = self._at(cut)
        return pieces(model, traced, node, self._contents)

    def parts(self, cut: str) -> dict[str, list[str]]:
        """{path: [settings, tensors]}: short digests of what is before a cut, for messages alone."""
        return parts(self.pieces(cut))

    def dtypes(self, cut: str) -> set[torch.dtype]:
        """The floating-point dtypes of the weights before a cut."""
        return float_types(*self._at(cut))

    def as_dtype(self, cut: str, dtype: torch.dtype) -> str:
        """The digest "prefix" that this model would have in another dtype."""
        return state_digest(*self._at(cut), dtype)

    def probe(self, cuts: Iterable[str], size: Sequence[int], channels: int | None = None) -> dict[str, list[float]]:
        """{cut: floats}: the feature of a fixed synthetic image of (height, width), in eval mode.

        Its root mean square, its mean, and up to 14 of its values, evenly spread. Raises ModelError where the model
        does not run on such an image.
        """
        model, traced = self.model, self._own
        nodes = {cut: node_at(traced, cut) for cut in cuts}
        wanted = {node for node in nodes.values() if node is not None}
        values: dict[fx.Node, torch.Tensor] = {}
        device, dtype = image_type(model)
        x = synthetic_image(channels or image_channels(model, traced), size).to(device, dtype)

        def seen(node: fx.Node, value: Any) -> None:
            if node in wanted and isinstance(value, torch.Tensor):
                values[node] = value.detach().flatten().double().cpu()
                if len(values) == len(wanted):
                    raise _Enough

        with kept_generators(), mode(model, False), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            seed()
            try:
                run(model, traced.graphs[False], traced.constants, x, seen)
            except _Enough:
                pass
            except Exception as error:
                raise ModelError(
                    f"{type(model).__name__} does not run on an image of {size[0]} x {size[1]} pixels: "
                    f"{type(error).__name__}: {str(error).strip()[:200]}"
                ) from error
        return {cut: _few(values[node]) for cut, node in nodes.items() if node in values}

    @cached_property
    def _own(self) -> Trace:
        return trace(self.model)

    @cached_property
    def _plain(self) -> Trace:
        return self._own if self._bare is self.model else trace(self._bare)

    def _at(self, cut: str) -> tuple[nn.Module, Trace, fx.Node]:
        node = node_at(self._plain, cut)
        inside = node is not None and (is_bare(self.model) or node.name != cut)
        if node is not None and inside:
            return self._bare, self._plain, node
        # Names of nodes count on: with a hook on a module, which is then kept whole, the same name is another node.
        node = node_at(self._own, cut)
        if node is None:
            paths = [path for found in self._own.outputs.values() for path in found]
            close = difflib.get_close_matches(cut, paths, 3, 0.5) or paths[:3]
            raise ModelError(
                f"{type(self.model).__name__} has no cut {cut!r}; nearest: {', '.join(map(repr, close)) or 'none'}"
            )
        return self.model, self._own, node


class _Enough(Exception):
    """All features of a probe are there."""


def prefix_digest(model: nn.Module, cut: str) -> str:
    """SHA-256, in hex, of the parameters and buffers that are used before a cut.

    Over each of them, sorted by name: name, dtype, shape and bytes; BatchNorm's `num_batches_tracked` excepted, which
    no forward in eval mode reads. Names are the model's own. Raises ModelError where the model does not trace or has
    no such point.
    """
    return Identities(model).layer(cut)["prefix"]


def layer_identity(model: nn.Module, cut: str) -> dict[str, str]:
    """What of a model decides the features at a cut: {"cut", "prefix", "graph"}.

    prefix: `prefix_digest`. graph: SHA-256, in hex, over every operation before the cut: its module's class, its
    settings (eps, stride, ...), code where it is the user's own, and every tensor that it reads, packed weights and
    plain attributes among them. The same in every process and on every device; hooks, and what only training reads
    (momentum, a dropout's probability), are no part of it. Raises ModelError as `prefix_digest`.
    """
    return Identities(model).layer(cut)


def identity_differences(
    stored: Any,
    layers: Iterable[tuple[str, str]],
    model: nn.Module | Identities,
    probe: Any = None,
    parts: Any = None,
) -> list[str]:
    """Whether `model` wrote a set, and if not, what differs: one line a layer; [] where it did.

    stored: a plan's identity; of a set written before it held "graph", only "prefix" is compared. layers: (name, cut)
    of each layer. probe, parts: the provenance's, where there are some: features of a synthetic image, compared with
    a tolerance, and short digests that tell which part differs.
    """
    known = model if isinstance(model, Identities) else Identities(model)
    entries = stored.get("layers") if isinstance(stored, Mapping) else None
    size, asked = _size(stored), list(layers)
    wanted = {name: features for name, _ in asked if (features := _features(probe, name)) is not None}
    try:
        ours = known.probe([cut for name, cut in asked if name in wanted], size) if wanted and size else {}
    except ModelError:
        ours = {}  # another network, as digests will show, or one whose channels cannot be told
    lines = []
    for name, cut in asked:
        entry = entries.get(name) if isinstance(entries, Mapping) else None
        near = _distance(wanted[name], ours[cut]) if name in wanted and cut in ours else None
        found = _difference(entry, cut, known, near, _part(parts, name))
        if found is not None:
            lines.append(f"layer {name} {found}")
    return lines


def _difference(entry: Any, cut: str, model: Identities, near: float | None, parts: Mapping[str, Any]) -> str | None:
    """near: how far this model's features of the synthetic image are from the set's, None where that is unknown."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("prefix"), str):
        return (
            "cannot be checked: the plan does not say which weights wrote it; leave the model out, or extract the "
            "set again"
        )
    try:
        ours = model.layer(cut)
    except ModelError as error:
        return f"is not of this model: {error}"
    here = model.dtypes(cut)
    halves = [dtype for dtype in here if dtype in _HALVES]
    same = entry["prefix"] == ours["prefix"]
    if same and entry.get("graph", ours["graph"]) == ours["graph"]:
        if near is None or near <= (_HALF_NOISE if halves else _NOISE):
            return None
        return (
            f"gives other features with the same weights and modules: those of a synthetic image differ by "
            f"{near:.1%} of their size before the cut {cut}; a hook, a library's other version or code that is not "
            "seen changes them: use what the set was extracted with, or extract it again"
        )
    which = _which(parts, model, cut)
    if not same:
        if near is not None and near <= _HALF_NOISE and (halves or torch.float64 in here):
            what = _PRECISIONS.get(halves[0], "") if halves else "double precision (float64)"
            return (
                f"was written by the same weights in another precision, as features of a synthetic image show (they "
                f"differ by {near:.1%}): this model has them in {what}; give a copy in the set's precision (float32: "
                "model.float()), or extract the set again"
            )
        for dtype in (*_HALVES, torch.float64):
            if model.as_dtype(cut, dtype) == entry["prefix"]:
                return (
                    f"was written by the same weights in {str(dtype).removeprefix('torch.')}, this model has them in "
                    f"{_list(here)}: give model.to({dtype}), or extract the set again"
                )
        more = f" (of {_list(here)}: if this is a copy in half precision, give the model itself)" if halves else ""
        return (
            f"was written by other weights than this model's before the cut {cut}{which}{more}; load the weights that "
            "the set was extracted with, or extract it again"
        )
    return (
        f"was written by another network with the same parameters: other settings or code, or other tensors that are "
        f"no parameters, before the cut {cut}{which}; give the model that the set was extracted with, or extract it "
        "again"
    )


def _which(parts: Mapping[str, Any], model: Identities, cut: str) -> str:
    """The first parts that differ, in words; "" where nothing is known of them."""
    if not parts:
        return ""
    ours = model.parts(cut)
    said = []
    for path in dict.fromkeys([*parts, *ours]):
        theirs, mine = parts.get(path), ours.get(path)
        if theirs == mine:
            continue
        if theirs is None or mine is None:
            said.append(f"{path} is only {'here' if theirs is None else 'there'}")
        elif isinstance(theirs, list) and theirs[:1] != mine[:1]:
            said.append(f"the settings of {path}, here {_described(model.model, path)}")
        else:
            said.append(f"the tensors of {path}")
    more = f" and {len(said) - 3} more" if len(said) > 3 else ""
    return f": {', '.join(said[:3])}{more}" if said else ""


def _described(model: nn.Module, path: str) -> str:
    try:
        text = repr(model.get_submodule(path))
    except AttributeError:  # a tensor's path, or one inside a compiled module
        return "otherwise"
    return " ".join(text.split())[:120]


def _few(x: torch.Tensor) -> list[float]:
    """Root mean square, mean and up to 14 values of a vector, as floats of 6 digits."""
    x = torch.nan_to_num(x)
    places = torch.linspace(0, len(x) - 1, min(_PROBE - 2, len(x))).long()
    values = [x.square().mean().sqrt(), x.mean(), *x[places]]
    return [float(f"{float(v):.6g}") for v in values]


def _distance(a: list[float], b: list[float]) -> float:
    """The largest difference by the root mean square that stands first."""
    if len(a) != len(b):
        return math.inf
    worst = max(abs(x - y) for x, y in zip(a, b, strict=True))
    return worst / max(abs(a[0]), abs(b[0]), 1e-30) if worst else 0.0


def _features(probe: Any, name: str) -> list[float] | None:
    """A layer's part of a stored probe; None where there is none that can be used."""
    found = probe.get(name) if isinstance(probe, Mapping) else None
    if not isinstance(found, list) or not 2 < len(found) <= _PROBE:
        return None
    fine = all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in found)
    return [float(v) for v in found] if fine else None


def _part(parts: Any, name: str) -> Mapping[str, Any]:
    found = parts.get(name) if isinstance(parts, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _size(stored: Any) -> tuple[int, int] | None:
    size = stored.get("base_size") if isinstance(stored, Mapping) else None
    fine = isinstance(size, (list, tuple)) and len(size) == 2 and all(type(s) is int and 0 < s <= 16384 for s in size)
    return (size[0], size[1]) if fine and isinstance(size, (list, tuple)) else None


def _list(dtypes: Iterable[torch.dtype]) -> str:
    return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)) or "no floating-point dtype"
