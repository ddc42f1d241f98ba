"""From shards to batches: order -> fetch -> window of compressed rows -> batch -> decode and augment.

order.py      which rows make which batch: pure functions of (deal, seed, epoch, start), laid out a stretch at a time
deal.py       choosing a deal (G, K, M) and stating its memory
epoch.py      the epoch number that all workers agree on
window.py     compressed rows in slots
batch.py      gathered rows as a batch
decode.py     FeatureDecoder: rows -> features, augmented
dataset.py    FeatureDataset
loading.py    loader, and the DataLoader that it makes
samples.py    open_shards
plugin.py     decode_chunks, a stage for WebDataset pipelines
arguments.py  what people give for an argument

The set itself, and chunks read and verified, come from the room `reader`; which rank this is from `fmshards.place`.
"""

from __future__ import annotations

from fmshards.stream.dataset import FeatureDataset
from fmshards.stream.decode import FeatureDecoder
from fmshards.stream.loading import FeatureLoader, loader
from fmshards.stream.plugin import decode_chunks
from fmshards.stream.samples import open_shards

__all__ = ["FeatureDataset", "FeatureDecoder", "FeatureLoader", "decode_chunks", "loader", "open_shards"]
