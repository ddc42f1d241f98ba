"""Extraction on a Ray cluster: as many parts as it has room for, each a task that Ray starts again where its node dies.

Ray finds the places and starts what is lost anew; who makes what is settled by claims, as under any other launcher. A
task loads the model once and returns when the set is whole, so a cluster that grows smaller ends the work all the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from fmshards.clock import Clock
from fmshards.errors import FmshardsError, FormatError, InputError, StoppedError, TransientError, WorkerDiedError
from fmshards.extraction.entry import run
from fmshards.extraction.options import Options
from fmshards.extraction.planned import planned
from fmshards.extraction.progress import Progress, progress_of
from fmshards.extraction.status import Status, status
from fmshards.extraction.stopping import never
from fmshards.shards import Manifest, read_manifest, set_url

_LOOK = 2.0  # seconds between two looks at the tasks
_END = 30.0  # seconds that tasks have once they are told to end
_AGAIN = 20  # times that a part is started anew, after a node's death or an error that may pass


def extract_on_ray(
    source: str,
    out: str | os.PathLike[str],
    *,
    model: str,
    plan: Any = None,
    address: str | None = None,
    tasks: int | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
    progress: bool | str | TextIO | None = None,
    stop: Callable[[], bool] = never,
    **given: Any,
) -> Manifest:
    """`fmshards.extract`, which says what it can be given, by tasks of a Ray cluster.

    source, model: text, which must mean the same on every node, as must the paths of weights and classes; `out`: a
    place that all nodes share.
    address: of the cluster; None: where RAY_ADDRESS says, else this machine.
    tasks: how many at a time; by default as many as there is room for.
    cpus, gpus: of a task; by default one GPU where the cluster has any, and a CPU more than `workers`.

    Raises InputError where Ray is not installed, something given is no text or a task fits nowhere, what a task
    raises, and StoppedError.
    """
    for name, value in (("source", source), ("model", model)):
        if not isinstance(value, str):
            raise InputError(f"{name} is {type(value).__name__}; on Ray it must be text, which every node understands")
    for name in ("overwrite", "part"):
        if given.pop(name, None):
            raise InputError(f"{name} has no meaning on Ray, where many processes make one set; leave it out")
    options = Options.of(**given) if plan is None else planned(plan, given)
    ray, url = _ray(), set_url(out)
    own = not ray.is_initialized()
    if own:
        ray.init(address=address)
    try:
        room = ray.cluster_resources()
        gpus = (1.0 if room.get("GPU", 0) >= 1 else 0.0) if gpus is None else gpus
        cpus = float(1 + options.workers) if cpus is None else cpus
        count = _tasks(tasks, cpus, gpus, room)
        shown = progress_of(progress, Clock())
        there = f"{room.get('CPU', 0):g} CPUs and {room.get('GPU', 0):g} GPUs"
        shown.say(f"{count} tasks on Ray, each of {cpus:g} CPUs and {gpus:g} GPUs; the cluster has {there}")
        passing = [TransientError, WorkerDiedError]  # beside the death of a node
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_AGAIN, retry_exceptions=passing)(_part)
        left = [task.remote(source, url, model, options.to_json(), (i, count)) for i in range(count)]
        _watch(ray, left, url, shown, stop)
    finally:
        if own:
            ray.shutdown()
    return read_manifest(url)


def _part(source: str, out: str, model: str, options: Mapping[str, Any], part: tuple[int, int]) -> None:
    run(source, out, model, Options.from_json(options), part=part)


def _watch(ray: Any, left: list[Any], url: str, shown: Progress, stop: Callable[[], bool]) -> None:
    """Until every task has ended. Raises what the first of them raises, once the others are told to end."""
    began = time.monotonic()
    try:
        while left:
            done, left = ray.wait(left, timeout=_LOOK)
            for each in done:
                ray.get(each)
            if stop():
                raise StoppedError(f"{url}: stopped as asked; run the same again, and it goes on")
            _show(url, shown, time.monotonic() - began)
    except BaseException as error:
        for each in left:
            ray.cancel(each)
        if left:
            ray.wait(left, num_returns=len(left), timeout=_END)  # they leave nothing half written
        cause = getattr(error, "cause", None)
        if isinstance(cause, FmshardsError):
            raise cause from None
        raise


def _show(url: str, shown: Progress, seconds: float) -> None:
    try:
        found: Status = status(url)
    except FormatError:
        return  # there is no plan yet
    at_work = f", {len({claim.part for claim in found.running})} tasks at work"
    rate = f", {60 * found.done / seconds:.1f} a minute" if found.done else ""
    shown.stage(f"input shards{rate}{at_work}", found.done, found.inputs)


def _tasks(tasks: int | None, cpus: float, gpus: float, room: Mapping[str, float]) -> int:
    fit = min([int(room.get(name, 0) / need) for name, need in (("CPU", cpus), ("GPU", gpus)) if need > 0], default=1)
    if fit < 1:
        raise InputError(
            f"no task of {cpus:g} CPUs and {gpus:g} GPUs fits into the cluster's {room.get('CPU', 0):g} and "
            f"{room.get('GPU', 0):g}; ask for fewer (--ray-cpus, --ray-gpus)"
        )
    return fit if tasks is None else tasks


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError(f"Ray is not installed here ({error}): pip install 'fmshards[ray]'") from None
    return ray
