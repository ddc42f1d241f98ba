"""Sets that several tests read, built once."""

from __future__ import annotations

import pytest

from tests.sets import BuiltSet, build_set


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> BuiltSet:
    """73 samples in three shards, one layer, nothing to augment."""
    return build_set(tmp_path_factory.mktemp("sets") / "plain")


@pytest.fixture(scope="session")
def flipped(tmp_path_factory: pytest.TempPathFactory) -> BuiltSet:
    """73 samples, two layers, flip with the mirror stored, fresh crops."""
    layers = {"layer2": "fp32", "layer3": "8"}
    return build_set(tmp_path_factory.mktemp("sets") / "flipped", layers=layers, recipe="flip+crop(pad=4, step=1)")


@pytest.fixture(scope="session")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> BuiltSet:
    """As `flipped`, the mirror mapped."""
    path = tmp_path_factory.mktemp("sets") / "mapped"
    return build_set(path, recipe="flip+crop(pad=4, step=1)", mirror="mapped(kernel=3)")


@pytest.fixture(scope="session")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> BuiltSet:
    """73 samples, flip with the mirror stored, four views of three sensitive channels."""
    path = tmp_path_factory.mktemp("sets") / "viewed"
    return build_set(path, recipe="flip+crop(pad=8, step=1)", views=4)
