"""Models: loading them, preprocessing for them, finding their cuts, splitting them there, and telling them apart.

load.py             a model by its name
weights.py          its weights from a file: another trainer's names of keys too
device.py           on the device where it is to run
image.py            an image in the mode that it takes
unwrap.py           out of what torch.compile and trainers wrap around it; what cannot be split at all
preprocess.py       what an image goes through first
preprocess_text.py  the same from a text, a library's configuration or a function
cuts.py             the list of cuts, the sensible ones first, and what a feature costs there
split.py            the two halves at a cut, or a prefix for several
image.py            an image in the mode that a network takes
part.py             a half: a part of the graph as a module over the model's own modules
identity.py         which model wrote a set, and what differs of another
graph/              tracing a model, and its checks: cuts, split and identity stand on it
"""

from __future__ import annotations

from fmshards.model.cuts import Cut, cuts, cuts_of, find_cut, row_bytes
from fmshards.model.device import load_on
from fmshards.model.graph.analyse import Analysis, analyse
from fmshards.model.graph.example import blank_image, image_type
from fmshards.model.identity import (
    Identities,
    identity_differences,
    layer_identity,
    prefix_digest,
)
from fmshards.model.load import load_model
from fmshards.model.part import Part, Prefix
from fmshards.model.preprocess import Preprocess
from fmshards.model.preprocess_text import parse_preprocess
from fmshards.model.split import multi_prefix, split
from fmshards.model.unwrap import unwrap

__all__ = [
    "Analysis",
    "Cut",
    "Identities",
    "Part",
    "Prefix",
    "Preprocess",
    "analyse",
    "blank_image",
    "cuts",
    "cuts_of",
    "find_cut",
    "identity_differences",
    "image_type",
    "layer_identity",
    "load_model",
    "load_on",
    "multi_prefix",
    "parse_preprocess",
    "prefix_digest",
    "row_bytes",
    "split",
    "unwrap",
]
