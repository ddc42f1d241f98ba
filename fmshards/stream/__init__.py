"""From shards to batches: order -> fetch -> window of compressed rows -> batch -> decode and augment.

order/        which rows make which batch: pure functions of (legs, seed, epoch)
course/       epochs and states: where an iteration begins
window.py     compressed rows in slots
batch.py      gathered rows as a batch
making.py     chunks through the window into batches
misuse.py     who it is that iterates a data set, where that would end in wrong batches
decode.py     FeatureDecoder: rows -> features, augmented
dataset.py    FeatureDataset
mix.py        FeatureMix: several sets by weight
loading.py    loader, and the DataLoader that it makes
handing.py    a batch on its way from a worker
stats.py      counters by stage, of all workers
trial.py      bench: a set streamed without a trainer
samples.py    open_shards
plugin.py     decode_chunks, a stage for WebDataset pipelines
arguments.py  what people give for an argument
trainers/     what a trainer needs beyond the loader

The set itself, and chunks read and verified, come from the room `reader`; which rank this is from `fmshards.place`.
"""

from __future__ import annotations

from fmshards.stream.dataset import FeatureDataset
from fmshards.stream.decode import FeatureDecoder
from fmshards.stream.loading import FeatureLoader, loader
from fmshards.stream.mix import FeatureMix
from fmshards.stream.plugin import decode_chunks
from fmshards.stream.samples import open_shards
from fmshards.stream.trial import bench

__all__ = [
    "FeatureDataset",
    "FeatureDecoder",
    "FeatureLoader",
    "FeatureMix",
    "bench",
    "decode_chunks",
    "loader",
    "open_shards",
]
