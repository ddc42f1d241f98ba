"""The limits of format version 1: a file that exceeds one is refused before memory is spent on it.

FORMAT.md lists them; writers hold themselves to the same numbers.
"""

from __future__ import annotations

VERSION = 1
"""Version of plan.json, manifest.json, index and meta that this package writes, and the only one it reads."""

MIB = 1 << 20

PLAN_BYTES = 64 * MIB
MANIFEST_BYTES = 128 * MIB
CALIBRATION_BYTES = 2048 * MIB
INDEX_BYTES = 64 * MIB
META_BYTES = 256 * MIB
MEMBER_BYTES = (1 << 33) - 1
"""A USTAR header has 11 octal digits for a member's size."""

SHARD_BYTES = 1 << 44
CHUNK_SAMPLES = 65_536
SHARD_CHUNKS = 1_000_000
SET_SHARDS = 1_000_000
SET_LAYERS = 1_024
VIEWS = 1_024
FIELDS = 1_024
NAME_LENGTH = 128
KEY_LENGTH = 4_096
MSGPACK_VALUES = 1 << 22
"""Values (lists, maps and what they hold) in one index or meta; bounds what unpacking can allocate."""

MSGPACK_LENGTH = 1 << 20
"""Length of one list or map in an index or meta."""

JSON_VALUES = 1 << 23
"""Values in plan.json or manifest.json, as `jsonio.check_values` counts them; bounds what parsing can allocate."""

DEPTH = 32
"""Depth of nested lists and maps in a sample's field, and in the open objects of a plan."""
