"""From shards to batches: order -> fetch -> verify -> window of compressed rows -> batch -> decode and augment.

order.py      which rows make which batch: pure functions of (deal, seed, epoch, start)
layout.py     choosing a deal (G, K, M) and stating its memory
rank.py       which rank this is
epoch.py      the epoch number that all workers agree on
catalog.py    what is known of a set before a shard is read
fetch.py      verified chunks, read ahead
window.py     compressed rows in slots
batch.py      gathered rows as a batch
decode.py     FeatureDecoder: rows -> features, augmented
dataset.py    FeatureDataset
loader.py     loader
samples.py    open_shards
plugin.py     decode_chunks, a stage for WebDataset pipelines
"""

from __future__ import annotations

from fmshards.stream.dataset import FeatureDataset
from fmshards.stream.decode import FeatureDecoder
from fmshards.stream.loading import FeatureLoader, loader
from fmshards.stream.plugin import decode_chunks
from fmshards.stream.samples import open_shards

__all__ = ["FeatureDataset", "FeatureDecoder", "FeatureLoader", "decode_chunks", "loader", "open_shards"]
