"""extraction: source -> prefix -> encode -> shards.

sources/       where images come from, one file each: tars, Parquet files, lists of URLs, a folder, a data set
batches.py     raw samples read here, decoded in workers, in order and with fixed boundaries
decode.py      the worker's side: images to base tensors and rendered views
forward.py     the device's side: all layers in one pass
encode.py      rows, chunks and shards, written beside the next forward
draft.py       a plan for a new set, with what calibration measures
calibration_images.py   the images that it measures on
labels.py      a warning for shards sorted by label
options.py     what it can be told: plain values, checked
request.py     the options with every default decided, and what they name: ready to run
bind.py        the plan at the output decides: adopt, refuse or replace
samples.py     stored samples made again, where nothing else tells whether they are of this input
part.py        which part of an extraction this process is: said, or read from the scheduler
claims.py      who is making what, so that two do not make the same
work.py        which shards are missing, and which of them are made here
pipeline.py    these are made
stopping.py    ending before all is done, as asked; waiting for others
entry.py       the function
on_ray.py      the function by tasks of a Ray cluster
status.py      how far a set is, and who is at work on it
propose.py     `plan`: the sample of a source for the room planning, and `NAME:auto`
planned.py     its answer as options of extraction, made and taken
provenance.py  what made a set, for the record
progress.py    rate, bytes, time left; where the time went
verify.py      a set against its bytes, its model and its images
soundness.py   a set against what its readers accept, and what mends it
"""

from __future__ import annotations

from fmshards.extraction.entry import extract, run
from fmshards.extraction.on_ray import extract_on_ray
from fmshards.extraction.options import Options, layer_rates
from fmshards.extraction.propose import plan
from fmshards.extraction.status import Status, status
from fmshards.extraction.verify import Report, verify

extract.verify = verify  # type: ignore[attr-defined]  # fmshards.extract.verify is an older name of it

__all__ = ["Options", "Report", "Status", "extract", "extract_on_ray", "layer_rates", "plan", "run", "status", "verify"]
