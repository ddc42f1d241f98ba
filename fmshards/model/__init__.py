"""Models: loading them, preprocessing for them, finding their cuts, and splitting them there.

trace.py makes a model's graph, liveness.py finds where it can be cut, analyse.py runs both on an example and holds
the graph against the model; cuts.py lists the cuts and split.py makes the two halves (part.py).
load.py finds a model by its name and its weights (weights.py); preprocess.py is what an image goes through first.
"""

from __future__ import annotations

from fmshards.model.cuts import Cut, cuts, cuts_of, find_cut
from fmshards.model.device import load_on, pick_device
from fmshards.model.graph.analyse import Analysis, analyse
from fmshards.model.graph.example import blank_image, image_type
from fmshards.model.identity import Identities, identity_differences, layer_identity, prefix_digest
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
    "pick_device",
    "prefix_digest",
    "split",
    "unwrap",
]
