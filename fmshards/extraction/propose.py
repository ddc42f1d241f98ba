"""`fmshards.plan`: the source's sample, read for the room `planning`, and its answer made into options of extraction.

`NAME:auto` is answered here too, when a set is begun.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TextIO

import torch
from torch import nn

from fmshards.augment import Mirror, Recipe, parse_mirror
from fmshards.clock import Clock
from fmshards.errors import FmshardsError, InputError
from fmshards.extraction.calibration_images import Images, calibration_items, sample_count
from fmshards.extraction.decode import Decoder
from fmshards.extraction.draft import asked_cuts, first_base
from fmshards.extraction.forward import run_prefix
from fmshards.extraction.options import AUTO, Options
from fmshards.extraction.planned import options_of
from fmshards.extraction.progress import Progress, progress_of
from fmshards.extraction.request import Request, prepare
from fmshards.extraction.sources import Item
from fmshards.model import Cut, cuts_of, multi_prefix, split
from fmshards.planning import SUFFIXES, Budget, Halves, Photos, Proposal, Setting, survey
from fmshards.planning.choice import choose, notes_of, recipe_of, sensible
from fmshards.shards.fields import LABEL, decode_field
from fmshards.units import parse_bytes, parse_share

SAMPLES, DROP = 300, 0.005
"""Photos that are looked at, and the accuracy that may be lost, where neither is said."""
_PADDED = 8  # of the image's side, a crop's pad where no recipe is given


def plan(
    source: Any,
    *,
    model: str | nn.Module,
    layers: str | Sequence[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    preprocess: Any = None,
    recipe: str | Recipe | None = None,
    mirror: str | Mirror | None = None,
    max_drop: float | str | None = None,
    max_bytes: int | str | None = None,
    samples: int = SAMPLES,
    suffix: str = "auto",
    speed: float | None = None,
    batch: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    filter: str | None = None,
    image_field: str | None = None,
    orientation: str | None = None,
    classes: str | os.PathLike[str] | Sequence[str] | None = None,
    order: str = "auto",
    seed: int = 0,
    progress: bool | str | TextIO | None = None,
) -> Proposal:
    """Which cut, codec, rate and mirror serve this source and model: measured here, on a sample, judged by the task.

    A rate is within the budget where the accuracy that it costs, estimated on photos that no codec was fitted to, is
    `max_drop` at most. Where labels are the network's own classes, or none say otherwise, its own rest judges; else a
    linear probe on pooled features stands in. Standard errors are told, and whether the sample is too small.

    source, model, weights, preprocess, batch, device, precision, filter, image_field, orientation, classes, order,
        seed: as `extract` has them.
    layers: names of cuts; by default up to four that are sensible are looked at, and one of them is proposed.
    recipe: the augmentation, as text; by default flips, and crops of an eighth of the image's side; "none" for none.
    mirror: as `extract` has it; by default the way of fewest bytes within 2 points of the stored mirror.
    max_drop: "0.5%" or 0.005, the default where neither bound is given. max_bytes: a sample's, the mirror's with it,
        such as "20kB"; alone, it is the best rate that fits.
    samples: photos to look at. suffix: "trained", the network's own rest goes on; "fresh", it is trained anew; "auto".
    speed: the trainer's samples/s, for the read bandwidth; by default what this machine would train.
    progress: as `extract` has it.

    Options are the same for the same input and seed; seconds are not. Raises what `extract` raises.
    """
    began = time.perf_counter()
    budget = _budget(max_drop, max_bytes)
    _check(samples, suffix, speed, recipe)
    names = _names(layers)
    options = Options.of(
        layers=dict.fromkeys(names or [AUTO], AUTO),  # without names the cuts are chosen below, from the graph
        weights=weights,
        preprocess=preprocess,
        recipe=recipe,
        mirror="stored" if mirror is None else mirror,
        batch=batch,
        device=device,
        precision=precision,
        filter=filter,
        image_field=image_field,
        orientation=orientation,
        classes=classes,
        order=order,
        seed=seed,
    )
    shown = progress_of(progress, Clock())
    request = prepare(source, "", model, options)
    base = first_base(request)
    if recipe is None:
        pad = max(1, min(base.shape[1:]) // _PADDED)
        options = replace(options, recipe=f"flip+crop(pad={pad})")
        request = prepare(source, "", request.model, replace(options, weights=None))
    example = base[None].to(request.device)
    if names:
        cuts = asked_cuts(request, example)
    else:
        cuts = {cut.name: cut for cut in sensible(cuts_of(request.analysis(example)))}
    asked = parse_mirror(mirror) if mirror is not None else None
    photos = _photos(request, base, samples)
    setting = replace(_setting(request, photos, budget, example), mirror=asked, suffix=suffix, speed=speed)
    deep = sorted(cuts.values(), key=lambda cut: cut.place)
    judged, reports = survey(setting, deep, shown.stage)
    chosen = choose(reports, bool(names))
    proposed = recipe_of(request.recipe, chosen)
    named = {cut.name: name for name, cut in cuts.items()}
    notes = notes_of(reports, chosen, budget, request.recipe, proposed)
    if len(photos) < samples:
        notes.append(f"the source has {len(photos)} photos, fewer than the {samples} asked for")
    return Proposal(
        options=options_of(options, named, chosen, proposed, preprocess) if chosen else None,
        budget=budget,
        judged=judged,
        cuts=tuple(reports),
        notes=(judged.why, *notes),
        photos=len(photos),
        photo_bytes=photos.bytes,
        total=photos.total,
        seconds=time.perf_counter() - began,
        about={
            "model": model if isinstance(model, str) else type(model).__name__,
            "source": request.source_text,
            "device": str(request.device),
            "threads": torch.get_num_threads(),
        },
    )


def settle_rates(request: Request, shown: Progress) -> Request:
    """The same with a rate in place of each AUTO: the smallest that drops no more than `DROP` on `SAMPLES` photos.

    The choice is a pure function of the source, the model and the options. Raises InputError where no rate is.
    """
    wanted = [name for name, rate in request.options.layers.items() if rate == AUTO]
    if not wanted:
        return request
    base = first_base(request)
    example = base[None].to(request.device)
    cuts = asked_cuts(request, example)
    photos = _photos(request, base, SAMPLES)
    setting = _setting(request, photos, Budget(DROP, None), example)
    judged, reports = survey(setting, [cuts[name] for name in wanted], shown.stage, rates_only=True)
    rates = dict(request.options.layers)
    for name, report in zip(wanted, reports, strict=True):
        trial = report.chosen
        if trial is None:
            raise InputError(
                f"{name}:{AUTO}: no rate keeps the drop within {DROP:.1%}; choose one, such as {name}:fp32"
            )
        rates[name] = trial.rate
        told = "" if report.told else f"; a sample of {report.photos} does not tell that from {DROP:.1%}"
        shown.say(f"{name}: {trial.rate} chosen, it drops {trial.outcome.drop.percent()} ({judged.why}){told}")
    return replace(request, options=replace(request.options, layers=rates))


def _budget(max_drop: float | str | None, max_bytes: int | str | None) -> Budget:
    most = None if max_bytes is None else float(parse_bytes(max_bytes, "max_bytes"))
    if max_drop is None:
        return Budget(DROP if most is None else None, most)
    return Budget(parse_share(max_drop, "max_drop"), most)


def _check(samples: Any, suffix: Any, speed: Any, recipe: Any) -> None:
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise InputError(f"samples is {samples!r}; expected a whole number, 1 or more"[:300])
    if suffix not in SUFFIXES:
        raise InputError(f"suffix is {suffix!r}; expected one of {', '.join(SUFFIXES)}"[:300])
    number = isinstance(speed, (int, float)) and not isinstance(speed, bool)
    if speed is not None and not (number and 0 < speed < math.inf):
        raise InputError(f"speed is {speed!r}; expected samples a second, above 0"[:300])
    if callable(recipe) or (isinstance(recipe, Recipe) and recipe.custom_text is not None):
        raise InputError("recipe is a function, which no feature can follow: only whole views hold what it does")


def _names(layers: Any) -> list[str]:
    names = [layers] if isinstance(layers, str) else [] if layers is None else layers
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"layers is {layers!r}; expected names of cuts, without rates"[:300])
    for name in names:
        if ":" in name:
            raise InputError(f"layers: {name!r} has a rate; expected the name of a cut alone: plan finds its rate")
    if len(set(names)) != len(names):
        raise InputError(f"layers has a name twice: {', '.join(names)}"[:300])
    return list(names)


def _photos(request: Request, base: torch.Tensor, wanted: int) -> Photos:
    size = (int(base.shape[1]), int(base.shape[2]))
    decoder = Decoder(request.source, request.preprocess, size, keep=request.kept)
    items = calibration_items(decoder, wanted)
    return Photos(
        Images(decoder, items),
        request.preprocess,
        _labels(decoder, items),
        _photo_bytes(request, items),
        sample_count(request.source),
    )


def _labels(decoder: Decoder, items: Sequence[tuple[int, Item]]) -> torch.Tensor | None:
    """The classes' numbers, int64 [n]; None where they are not there, or are no numbers."""
    found: list[int] = []
    for shard, item in items:
        values = item.fields if LABEL in item.fields else decoder.sample(shard, item).fields
        try:
            label = decode_field(LABEL, values[LABEL]) if LABEL in values else None
        except FmshardsError:
            label = None
        if isinstance(label, bool) or not isinstance(label, int):
            return None
        found.append(label)
    return torch.tensor(found, dtype=torch.int64)


def _photo_bytes(request: Request, items: Sequence[tuple[int, Item]]) -> float | None:
    """Bytes of an encoded image, the mean; None where the source has none."""
    sizes = [len(item.data) for _, item in items if isinstance(item.data, bytes)]
    if sizes:
        return sum(sizes) / len(sizes)
    known = [(shard.bytes, shard.samples) for shard in request.source.inputs if shard.bytes and shard.samples]
    total = sum(count for _, count in known)
    return sum(size for size, _ in known) / total if known else None


def _setting(request: Request, photos: Photos, budget: Budget, example: torch.Tensor) -> Setting:
    known, options = request.analysis(example), request.options
    layout = torch.channels_last if request.memory_format == "channels_last" else torch.contiguous_format

    def run(module: nn.Module, x: torch.Tensor) -> Any:
        return run_prefix(module, x, request.device, options.precision, request.memory_format)

    def halves(cut: Cut) -> Halves:
        prefix, rest = split(request.model, cut, analysis=known)

        def suffix(x: torch.Tensor) -> torch.Tensor:
            x = x.to(request.device, _dtype(rest))
            answer: torch.Tensor = rest(x.contiguous(memory_format=layout) if x.dim() == 4 else x)
            return answer

        return Halves(lambda x: run(prefix, x), suffix)

    def prefix_of(cuts: Sequence[Cut]) -> Any:
        module = multi_prefix(request.model, [cut.name for cut in cuts], analysis=known)
        return lambda x: run(module, x)

    return Setting(
        photos=photos,
        halves=halves,
        prefix_of=prefix_of,
        device=request.device,
        budget=budget,
        recipe=request.recipe,
        mirror=request.mirror,
        batch=request.batch,
        filter=options.filter,
        order=options.order,
        seed=options.seed,
    )


def _dtype(module: nn.Module) -> torch.dtype:
    """That of the module's weights: features are stored as float32 and given to it as it takes them."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
