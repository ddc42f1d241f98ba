"""Who it is that uses a FeatureDataset, seen from its caller's frames: some ways would end in wrong batches.

It is found out where the iteration begins and said where the first batch is asked for: a DataLoader's worker that
persists and fails any earlier dies without a word.
"""

from __future__ import annotations

from types import FrameType

from torch.utils.data import default_collate

_WRAPPERS = {"IterableDatasetShard", "DataLoaderDispatcher"}
_MODULES = ("accelerate.", "transformers.")


def misuse(caller: FrameType, ranks: int) -> str | None:
    """What is wrong with how the data set of one of `ranks` ranks is iterated, or sent to a worker; None if nothing."""
    if _collates(caller):
        return (
            "a FeatureDataset makes whole batches: give torch's DataLoader batch_size=None and the data set "
            "batch_size=..., or use fmshards.loader"
        )
    wrapper = _splits_again(caller) if ranks > 1 else None
    if wrapper is not None:
        return (
            f"{wrapper.__module__.partition('.')[0]} splits the batches over the processes again "
            f"({wrapper.__name__}), though each of the {ranks} ranks reads its own: each would train on a part of its "
            "part. Give accelerator.prepare what fmshards.loader returns, and a Trainer a get_train_dataloader that "
            "returns it; or let one process read all: rank=0, ranks=1"
        )
    return None


def thinned_out(caller: FrameType, ranks: int, workers: int) -> str | None:
    """What is wrong with who asks for the first batch: a stage of WebDataset's that keeps each rank's, or each
    worker's, part of what comes, which here is one already. None if nothing."""
    parts = {"split_by_node": ranks, "split_by_worker": workers}
    frame: FrameType | None = caller
    while frame is not None:
        name = frame.f_code.co_name
        if parts.get(name, 1) > 1 and str(frame.f_globals.get("__name__", "")).startswith("webdataset"):
            kind = "ranks" if name == "split_by_node" else "workers"
            return (
                f"webdataset's {name} comes after the batches of one of {parts[name]} {kind} and would leave out those "
                f"of the others, which are not among them: leave the stage {name} out"
            )
        frame = frame.f_back
    return None


def called_by_torchdata(caller: FrameType) -> bool:
    """Whether torchdata asks, which takes whatever has a state_dict to be asked without an argument."""
    return str(caller.f_globals.get("__name__", "")).startswith("torchdata.")


def _collates(caller: FrameType) -> bool:
    """Whether it is torch's fetcher that calls, about to put a batch of samples together, which here are batches.

    A collate function of the user's own may know what to do with them.
    """
    own = caller.f_locals
    return bool(own.get("auto_collation")) and own.get("collate_fn") is default_collate


def _splits_again(caller: FrameType) -> type | None:
    """The wrapper of Accelerate's or of transformers' that is at work, which leaves a process a part of what it reads,
    or hands out what one process reads. A forked worker has its parent's frames beneath its own."""
    frame: FrameType | None = caller
    while frame is not None:
        kind = type(frame.f_locals.get("self"))
        if kind.__name__ in _WRAPPERS and kind.__module__.startswith(_MODULES):
            return kind
        frame = frame.f_back
    return None
