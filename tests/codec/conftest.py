"""Features, data and rates that the codec is tried on."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from fmshards.codec import FeatureSpec

SPECS = [
    FeatureSpec("map", (8, 8, 8)),
    FeatureSpec("map", (16, 7, 7)),
    FeatureSpec("map", (64, 7, 7)),
    FeatureSpec("map", (65, 7, 7)),
    FeatureSpec("map", (48, 7, 7)),
    FeatureSpec("map", (16, 14, 14)),
    FeatureSpec("map", (18, 14, 14)),
    FeatureSpec("map", (3, 5, 9)),
    FeatureSpec("map", (33, 1, 1)),
    FeatureSpec("map", (7, 3, 4)),
    FeatureSpec("map", (65, 1, 6)),  # this one and the next have blocks with nothing valid
    FeatureSpec("map_last", (2, 5, 66)),
    FeatureSpec("map_last", (7, 7, 24)),
    FeatureSpec("map_last", (8, 4, 12)),
    FeatureSpec("map_last", (5, 9, 3)),
    FeatureSpec("tokens", (17, 24), (4, 4), 1),
    FeatureSpec("tokens", (51, 20), (7, 7), 2),
    FeatureSpec("tokens", (16, 12), (4, 4), 0),
    FeatureSpec("tokens", (11, 12), None, 1),
    FeatureSpec("tokens", (3, 21), None, 3),
    FeatureSpec("vector", (1,)),
    FeatureSpec("vector", (64,)),
    FeatureSpec("vector", (203,)),
]
BITS = [16, 24, 40, 64, 144, 256, 504, 1024, 2048]
DATA = ["normal", "relu", "sparse", "zeros", "constant", "positive", "tiny", "huge", "mixed", "smooth"]


def values(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """float32 data of a named sort."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if name == "relu":
        x = np.maximum(x, 0)
    elif name == "sparse":
        x = np.maximum(x - 1.5, 0)
    elif name == "zeros":
        x = np.zeros(shape)
    elif name == "constant":
        x = np.full(shape, 0.37)
    elif name == "positive":
        x = np.abs(x) + 3
    elif name == "tiny":
        x = x * 1e-20
    elif name == "huge":
        x = x * 1e36
    elif name == "mixed":
        x = x * 10.0 ** rng.integers(-8, 9, shape)
    elif name == "smooth":
        x = np.cumsum(x, -1) / 10
    return x.astype(np.float32)


@st.composite
def features(draw: st.DrawFn) -> FeatureSpec:
    """Any small feature."""
    kind = draw(st.sampled_from(["map", "map_last", "tokens", "vector"]))
    if kind == "vector":
        return FeatureSpec(kind, (draw(st.integers(1, 300)),))
    h, w = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    c = draw(st.integers(1, 40 if h * w > 12 else 140))
    if kind == "map":
        return FeatureSpec(kind, (c, h, w))
    if kind == "map_last":
        return FeatureSpec(kind, (h, w, c))
    k = draw(st.integers(0, 3))
    grid = draw(st.sampled_from([(h, w), None]))
    return FeatureSpec(kind, (k + h * w, c), grid, k)


@st.composite
def orders(draw: st.DrawFn, channels: int) -> list[int] | None:
    if draw(st.booleans()):
        return None
    return list(draw(st.permutations(range(channels))))
