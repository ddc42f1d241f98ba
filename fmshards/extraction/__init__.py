"""extract: source -> prefix -> encode -> shards.

sources/       where images come from, one file each: WebDataset tars, a folder, a data set from Python
batches.py     raw samples read here, decoded in workers, in order and with fixed boundaries
decode.py      the worker's side: images to base tensors and rendered views
forward.py     the device's side: all layers in one pass
encode.py      rows, chunks and shards, written beside the next forward
draft.py       a plan for a new set, with what calibration measures
labels.py      a warning for shards sorted by label
bind.py        the plan at the output decides: adopt, refuse or replace
request.py     all options, checked
provenance.py  what made a set, for the record
progress.py    rate, bytes, time left; where the time went
run.py         the function
check.py       a set against its bytes, its model and its images
"""

from __future__ import annotations

from fmshards.extraction.options import layer_rates
from fmshards.extraction.pipeline import extract
from fmshards.extraction.verify import Report, verify

__all__ = ["Report", "extract", "layer_rates", "verify"]
