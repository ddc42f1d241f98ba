"""shards: the format of a shard set. FORMAT.md at the root is normative: where code and it differ, the code is wrong.

limits.py       the version and the limits of the format
layer.py        what the plan says of one layer
plan.py         plan.json
manifest.py     manifest.json, entries of shards, error sums added up
differences.py  how two plans differ, in lines for a person
sets.py         the files of a set at a URL: names, reading, writing, removal
whole.py        a set declared whole: layers compared, the manifest made
fields.py       the other fields of a sample: the rule by which a reader serves them
values.py       Python's, numpy's and torch's values as a meta holds them
meta.py         the first member of a chunk
index.py        the last member of a shard
writer.py       shards written
chunk.py        chunks read, verified
verify.py       whole shards read again
describe.py     a set in a few plain numbers
tar.py, envelope.py, jsonio.py   USTAR headers, msgpack with a checksum, strict and canonical JSON
"""

from __future__ import annotations

from fmshards.shards.chunk import Chunk, chunk_from_members, expect_chunk, read_chunk
from fmshards.shards.differences import plan_differences
from fmshards.shards.fields import (
    Kinds,
    batch_names,
    check_layer_names,
    check_readable,
    column,
    decode_column,
    decode_field,
    served_names,
)
from fmshards.shards.index import ChunkIndex, ShardIndex, check_index, read_index
from fmshards.shards.layer import BASE, MIRROR, Grid, LayerPlan, Similarity, Stream, check_name
from fmshards.shards.manifest import Manifest, ShardEntry, chunk_sizes, layer_error
from fmshards.shards.plan import InputShard, Plan
from fmshards.shards.sets import (
    MANIFEST,
    PLAN,
    is_whole,
    layer_url,
    read_calibration,
    read_manifest,
    read_plan,
    remove_manifest,
    remove_set,
    set_url,
    still_ours,
    was_replaced,
    write_calibration,
    write_manifest,
    write_plan,
)
from fmshards.shards.values import field_value
from fmshards.shards.verify import Problem, entry_of, examine_shard, verify_shard
from fmshards.shards.whole import check_layers_agree, layers_differ, make_manifest, shards_differ
from fmshards.shards.writer import ShardWriter

__all__ = [
    "BASE",
    "MANIFEST",
    "MIRROR",
    "PLAN",
    "Chunk",
    "ChunkIndex",
    "Grid",
    "InputShard",
    "Kinds",
    "LayerPlan",
    "Manifest",
    "Plan",
    "Problem",
    "ShardEntry",
    "ShardIndex",
    "ShardWriter",
    "Similarity",
    "Stream",
    "batch_names",
    "check_index",
    "check_layer_names",
    "check_layers_agree",
    "check_name",
    "check_readable",
    "chunk_from_members",
    "chunk_sizes",
    "column",
    "decode_column",
    "decode_field",
    "entry_of",
    "examine_shard",
    "field_value",
    "is_whole",
    "layer_error",
    "layer_url",
    "layers_differ",
    "make_manifest",
    "plan_differences",
    "read_calibration",
    "expect_chunk",
    "read_chunk",
    "read_index",
    "read_manifest",
    "read_plan",
    "set_url",
    "remove_manifest",
    "remove_set",
    "served_names",
    "shards_differ",
    "still_ours",
    "was_replaced",
    "verify_shard",
    "write_calibration",
    "write_manifest",
    "write_plan",
]
