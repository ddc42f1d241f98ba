"""The function: bind to the set at the output, run what is missing, write the manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TextIO

import torch
from torch import nn

from fmshards.augment import Mirror
from fmshards.calibration import Sensitive
from fmshards.clock import Clock
from fmshards.codec import Rate
from fmshards.errors import FormatError, InputError, MismatchError, StoppedError, StoreError, warn
from fmshards.extraction.bind import Findings, check_ours, check_plan, find_plan, publish_plan, refuse, stamps_of
from fmshards.extraction.claims import Claims, remove_claims
from fmshards.extraction.draft import draft_plan
from fmshards.extraction.options import Options
from fmshards.extraction.part import part_of
from fmshards.extraction.pipeline import Pass
from fmshards.extraction.planned import planned
from fmshards.extraction.progress import Progress, progress_of
from fmshards.extraction.propose import settle_rates
from fmshards.extraction.request import Request, prepare
from fmshards.extraction.samples import sample_differences
from fmshards.extraction.stopping import never, wait
from fmshards.extraction.work import Work
from fmshards.planning import Proposal
from fmshards.shards import (
    PLAN,
    Manifest,
    Plan,
    is_whole,
    make_manifest,
    remove_manifest,
    remove_set,
    write_manifest,
)
from fmshards.shards.describe import mirror_texts


def extract(
    source: Any,
    out: str | os.PathLike[str],
    *,
    model: str | nn.Module,
    layers: Mapping[str, Rate] | str | Sequence[str] | None = None,
    plan: str | os.PathLike[str] | Proposal | None = None,
    weights: str | os.PathLike[str] | None = None,
    preprocess: Any = None,
    recipe: Any = None,
    version: str | None = None,
    mirror: str | Mirror | None = None,
    views: int = 0,
    sensitive: str | float | Sequence[int] | Sensitive | None = None,
    calibration: int | None = None,
    batch: int | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    workers: int = 0,
    chunk: int | None = None,
    filter: str | None = None,
    shard_size: int | None = None,
    image_field: str | None = None,
    orientation: str | None = None,
    classes: str | os.PathLike[str] | Sequence[str] | None = None,
    fields: str | Sequence[str] | None = None,
    drop_fields: str | Sequence[str] = (),
    order: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    progress: bool | str | TextIO | None = None,
    part: str | tuple[int, int] | None = None,
    stop: Callable[[], bool] = never,
) -> Manifest:
    """Run the layers of `model` up to each cut once over `source`, and write a shard set at `out`.

    What is whole at `out` is kept: the same call goes on where it was stopped, and returns at once where the set is
    whole. Equal calls give equal bytes, whatever the number of workers and however often they were killed. A set that
    other options, weights, functions or images made is refused; images of which nothing is made yet may change.

    source: WebDataset tars or Parquet files (text with braces, a list, a folder of them; paths or fsspec URLs), a
        file that lists URLs of images, a folder of images in class folders, or a map-style data set of images, (image,
        label) pairs or dicts. Files are known by a digest of their content; of a data set 8 stored samples are made
        again, and a `fingerprint` that it has is compared.
    out: a folder, or an fsspec URL.
    model, weights: text as on the command line, or a module (used as it is, in eval mode).
    layers: cut name -> rate, `NAME:RATE`, or a list of such texts. A rate is bits a value (ZFP); "int2" to "int8", a
        scale and an offset for each sample and channel; "int2-channel" to "int8-channel", for each channel; or "fp32",
        "fp16", "bf16"; or "auto", the smallest that keeps the network's answers on a sample, as `fmshards.plan` finds
        it. What was chosen stands in the set's plan.json, and is not chosen anew.
    plan: what `fmshards.plan` gave, or a file of it: its options, beside which others may be given.
    preprocess: text, or a function from a PIL image to a float tensor [3, H, W].
    recipe, mirror, views, sensitive: the augmentation that training uses where it is told no other
        (`loader(recipe=...)`), and what is kept for it; see `fmshards.augment`. A crop without a step moves by whole
        cells of every layer. What a map to the mirror costs and how far it is off is shown with the progress, and
        `fmshards inspect` says it again.
    version: a name for what the functions given do, to be changed whenever they do; else they are known by a digest of
        their code and of all that it refers to, and refused where that cannot be made.
    calibration: samples that similarities, grid, fill, the mapped mirror, steps of channels and their order are
        measured on; by default those of the set that is there, else an eighth of the samples, within 16 to 512.
    batch: samples in one forward, which decide the last bits of a feature; by default those of the set that is there,
        else 64, on a CPU 8.
    precision: float32, or autocast to bf16 or fp16; features are stored from float32 in any case.
    workers: processes that read and decode images.
    chunk: samples in a chunk; by default 4 MB of the largest row, within 8 to 256.
    filter: "zstd" makes what is stored smaller without loss; reading undoes it.
    shard_size: samples in a shard, of anything but tars; by default 4096.
    image_field: the field or column that holds the image, where it is not the only one that can.
    orientation: what becomes of images that say that they are to be turned (EXIF): "apply" turns them, "refuse" stops,
        "ignore" takes them as they lie. By default as the set that is there has it, else "apply".
    classes: the names of the classes in the order of their numbers: a list, a text file with one a line, or a set.
    fields, drop_fields: the fields that travel with a feature, or those that do not; by default all travel.
    order: "auto" stores channels like beside like where that lowers the error of a ZFP rate, "none" as they are.
    overwrite: replace what is at `out`. Stopped in between, the old set is there, or none.
    progress: True shows it on standard error, "json" as an object of JSON a line there, a stream there.
    part: "I/N", or (I, N): this process is one of N that make the set together, each its own shards first, then what is
        left; it returns when the set is whole. By default as the scheduler that started it says in the environment
        (torchrun, Slurm, Kubernetes; see `fmshards.extraction.part.part_of`), else the only one.
    stop: asked between batches; once it says True no shard is begun, the one that is begun is ended, and StoppedError
        is raised where shards are missing still.

    Raises InputError (options, source, an image: shard and key named), ModelError, MismatchError (`out` holds a set
    made otherwise, or was replaced meanwhile), StoreError (reading or writing failed, a full disk) and others of
    `fmshards.errors`.
    """
    given: dict[str, Any] = {
        "layers": layers,
        "weights": weights,
        "preprocess": preprocess,
        "recipe": recipe,
        "version": version,
        "mirror": mirror,
        "views": views,
        "sensitive": sensitive,
        "calibration": calibration,
        "batch": batch,
        "device": device,
        "precision": precision,
        "workers": workers,
        "chunk": chunk,
        "filter": filter,
        "shard_size": shard_size,
        "image_field": image_field,
        "orientation": orientation,
        "classes": classes,
        "fields": fields,
        "drop_fields": drop_fields,
        "order": order,
        "seed": seed,
    }
    options = Options.of(**given) if plan is None else planned(plan, given)
    return run(source, out, model, options, overwrite, progress, part, stop)


def run(
    source: Any,
    out: str | os.PathLike[str],
    model: str | nn.Module,
    options: Options,
    overwrite: bool = False,
    progress: bool | str | TextIO | None = None,
    part: str | tuple[int, int] | None = None,
    stop: Callable[[], bool] = never,
) -> Manifest:
    """`extract` with its options in one value."""
    if not isinstance(out, (str, os.PathLike)) or not os.fspath(out):
        raise InputError(f"out is {out!r}; expected a folder or a URL"[:300])
    if not isinstance(overwrite, bool):
        raise InputError(f"overwrite is {overwrite!r}; expected True or False"[:300])
    if not callable(stop):
        raise InputError(f"stop is {stop!r}; expected a function that says whether to stop"[:300])
    mine = part_of(part)
    if overwrite and mine.count > 1:
        raise InputError(
            f"overwrite, and this is part {mine} ({mine.said_by}): each part would remove what the others have made; "
            "remove the set first, or overwrite it from one process (--part 0/1)"
        )
    out, clock = os.fspath(out), Clock()
    shown = progress_of(progress, clock)
    with Claims(out, mine) as claims:
        stored, manifest = (None, None) if overwrite else find_plan(out)
        request = prepare(source, out, model, options, stored)
        if stored is None:
            request, plan = _begin(request, overwrite, shown, clock, claims, stop)
        else:
            plan = stored
            _compare(request, plan, shown)
            if manifest is not None:
                if is_whole(out, manifest):
                    shown.say(f"{out}: whole already; nothing was made")
                    return manifest
                warn(f"{out} has a manifest, but shards are missing or cut short: they are made again")
                remove_manifest(out)
        work = Work(out, plan, claims)
        try:
            Pass(request, work, shown, clock, stop).run()
            manifest = make_manifest(out, plan, work.shards_made())
            check_ours(out, plan)
            write_manifest(out, manifest)
            remove_claims(out)
        except (FormatError, MismatchError, StoreError):
            check_ours(out, plan)  # what another process replaces looks damaged, and is not
            raise
    shown.finish()
    return manifest


def _begin(
    request: Request, overwrite: bool, shown: Progress, clock: Clock, claims: Claims, stop: Callable[[], bool]
) -> tuple[Request, Plan]:
    """The plan of a new set, or that of another process that was first."""
    out = request.out
    plan, ours = _plan_of_others(out, claims, shown, stop), False
    if plan is None:
        with clock.span("calibrate"):
            settled = settle_rates(request, shown)
            draft, arrays = draft_plan(settled, shown.stage)
        marks = {"stamps": stamps_of(request.source), "fingerprint": request.source.fingerprint()}
        draft = replace(draft, provenance={**draft.provenance, **{k: v for k, v in marks.items() if v is not None}})
        if overwrite:
            remove_set(out, list(request.options.layers))
        for text in mirror_texts(draft):
            shown.say(text)
        plan, ours = publish_plan(out, draft, arrays)
        request = settled if ours else request
        claims.give_back(PLAN)
    request = request.settled(plan)
    if not ours:
        _compare(request, plan, shown)
    return request, plan


def _plan_of_others(out: str, claims: Claims, shown: Progress, stop: Callable[[], bool]) -> Plan | None:
    """The plan that another part makes, once it is there; None where this one is to make it."""
    while not claims.take(PLAN):
        shown.stage("waiting for the part that calibrates", 0, 1)
        wait(stop)
        plan, _ = find_plan(out)
        if plan is not None:
            return plan
        if stop():
            raise StoppedError(f"{out}: stopped as asked, before there was a plan; run the same again, and it goes on")
    plan = find_plan(out)[0] if claims.active else None  # made between the look and the claim
    if plan is not None:
        claims.give_back(PLAN)
    return plan


def _compare(request: Request, plan: Plan, shown: Progress) -> None:
    """Raise MismatchError unless the set of `plan` is the one that is asked for."""
    # Without a size in the preprocessing the images decide it: what the plan says is checked against each of them.
    ours = request.decided(request.preprocess.size or plan.base_size)
    found: Findings = check_plan(request.out, plan, ours, request.identities, request.source, shown.stage)
    if any(found.doubtful.values()):
        decoder, forward = request.decoder(plan), request.forward(plan)
        refuse(request.out, sample_differences(request.out, plan, found.doubtful, decoder, forward))
