"""What people give for an argument: natural ways are understood, each other kind is an InputError that names it."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fmshards.errors import FmshardsError, FormatError, InputError
from fmshards.shards import field_value
from fmshards.stream import FeatureDataset, FeatureDecoder, decode_chunks, loader, open_shards
from tests.sets import BuiltSet, build_set
from tests.stream.helpers import error_of

WRONG: list[Any] = [
    None,
    True,
    -1,
    2.5,
    float("nan"),
    "x",
    b"x",
    [],
    [3],
    {},
    {"a": 1},
    object(),
    torch.zeros(2),
    print,
]

# What each argument takes among those; it may say no for another reason, in words.
TAKEN: dict[str, tuple[Any, ...]] = {
    "url": ("x",),
    "log_every": (None,),
    "source": ("x",),
    "layers": (None, "x", {}, {"a": 1}),
    "fields": (None, "x", []),
    "memory": (2.5,),
    "model": (None,),
    "recipe": (None, print),  # a function may be the recipe of a set with whole views of it
    "dtype": (),
    "memory_format": (),
    "seed": (-1,),
    "rank": (None,),
    "ranks": (None,),
    "cache": (None, "x"),
    "cache_limit": (None,),
    "patience": (None, 2.5),
}
FLAGS = ("train", "decode", "augment", "pin_memory", "persistent_workers")
OPTIONAL = ("num_workers", "pin_memory", "persistent_workers", "prefetch_factor", "groups", "lanes", "window")


def taken(name: str) -> list[Any]:
    also = ((True,) if name in FLAGS else ()) + ((None,) if name in OPTIONAL else ())
    return [*TAKEN.get(name, ()), *also]


def cases() -> list[Any]:
    out = []
    for function in (FeatureDataset, loader, open_shards, decode_chunks, FeatureDecoder):
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is not parameter.VAR_KEYWORD:
                out.append(pytest.param(function, name, id=f"{function.__name__}-{name}"))
    return out


@pytest.mark.parametrize(("function", "name"), cases())
def test_each_argument_of_a_wrong_kind(plain: BuiltSet, function: Any, name: str) -> None:
    for value in WRONG:
        if any(value is one or (type(value) is type(one) and value == one) for one in taken(name)):
            continue
        arguments = {name: value}
        if name in ("rank", "ranks"):
            arguments = {"rank": 0, "ranks": 1} | arguments
        if function is not decode_chunks and name not in ("url", "source"):
            arguments["source" if function is FeatureDecoder else "url"] = plain.url
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(InputError, match=name):
                function(**arguments)


def test_what_torchs_loader_takes_is_named(plain: BuiltSet) -> None:
    for options in ({"timeout": "x"}, {"nonsense": 1}, {"prefetch_factor": 2}, {"multiprocessing_context": "x"}):
        with pytest.raises(InputError, match=r"DataLoader|multiprocessing"):
            loader(plain.url, 8, num_workers=0 if "prefetch_factor" in options else 1, **options)


def test_natural_ways(plain: BuiltSet) -> None:
    load = loader(
        Path(plain.url), np.int64(8), layers="layer2", memory=np.int64(10**8), dtype="bfloat16", num_workers=0, seed=3
    )
    batch = next(iter(load))
    assert batch["layer2"].dtype == torch.bfloat16
    assert batch["layer2"].shape[0] == 8
    assert next(iter(loader(plain.url, 8, dtype="torch.float16", memory=1e9)))["layer2"].dtype == torch.float16
    decoder = FeatureDecoder(Path(plain.url), ("layer2",), dtype="float64", memory_format="channels_last")
    rows = next(iter(FeatureDataset(Path(plain.url), np.array(["layer2"]).tolist(), 8, decode=np.bool_(False))))
    assert decoder(rows)["layer2"].is_contiguous(memory_format=torch.channels_last)
    urls = [{"url": plain.path / "layer2" / "000000.tar"}, plain.path / "layer2" / "000001.tar"]
    assert len(list(decode_chunks("layer2", dtype="float16")(urls))) == 25 + 18


def test_methods(plain: BuiltSet) -> None:
    samples, data = open_shards(plain.url), FeatureDataset(plain.url, batch_size=8)
    for call in (
        lambda: samples["x"],
        lambda: samples[1.0],
        lambda: samples.sample(0, 3),
        lambda: samples.sample(0, "base", "x"),
        lambda: samples.sample(True),
        lambda: data.set_epoch("x"),
        lambda: data.memory_needed("x"),
        lambda: data.check(-1),
        lambda: data.deal(None),
        lambda: list(decode_chunks()(3)),
        lambda: list(decode_chunks()([3])),
        lambda: decode_chunks().set_epoch(None),
        lambda: FeatureDecoder(plain.url)([1]),
        lambda: FeatureDecoder(plain.url)({}),
        lambda: FeatureDecoder(plain.url)({"layer2.rows": "x"}),
        lambda: FeatureDecoder(plain.url)({"layer2.rows": torch.zeros(2, 2048, dtype=torch.uint8)}),
        lambda: FeatureDecoder(plain.url).decode_layer("x", {}),
        lambda: FeatureDecoder(plain.url).decode_view("layer2", None),
    ):
        with pytest.raises(FmshardsError):
            call()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("batch_size", [1, 2, {}])
def test_batches_of_batches_are_refused(plain: BuiltSet, workers: int, batch_size: Any) -> None:
    data = FeatureDataset(plain.url, batch_size=8)
    options = {"batch_size": batch_size} if batch_size else {}
    load = DataLoader(data, num_workers=workers, **options)
    assert "batch_size=None" in error_of(InputError, load)
    assert len(list(DataLoader(data, batch_size=None, num_workers=workers))) == 9


def test_a_collate_function_of_ones_own_gets_batches(plain: BuiltSet) -> None:
    batches = list(DataLoader(FeatureDataset(plain.url, batch_size=8), batch_size=1, collate_fn=lambda one: one[0]))
    assert [len(batch["__key__"]) for batch in batches] == [8] * 9


def test_which_fields_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that does not travel is not decoded: one that no reader can read does no harm."""
    monkeypatch.setattr("fmshards.shards.writer.readable_value", lambda name, value, where: field_value(value))
    fields = {"json": [b'{"a": 1}'] * 12, "bad.json": [b"{"] * 12}
    built = build_set(tmp_path / "set", samples=(12,), chunk=4, fields=fields)
    url = str(built.path / "layer2" / "000000.tar")

    def names(fields: Any) -> list[set[str]]:
        return [
            set(next(iter(loader(built.url, 4, num_workers=0, fields=fields)))),
            set(next(iter(FeatureDataset(built.url, batch_size=4, fields=fields)))),
            set(open_shards(built.url, fields=fields)[0]),
            set(next(iter(decode_chunks(fields=fields)([{"url": url}])))),
        ]

    own = names([])
    assert all(found & {"cls", "json", "bad.json"} == set() for found in own)
    assert names("json") == [found | {"json"} for found in own]
    assert names(["cls", "json"]) == [found | {"cls", "json"} for found in own]
    with pytest.raises(FormatError, match=r"bad\.json"):
        names(None)
    for read in (FeatureDataset, loader, open_shards):
        with pytest.raises(InputError, match=r"no field 'label'; they have bad.json, cls, json"):
            read(built.url, fields=["label"])
    with pytest.raises(InputError, match="no field 'label'"):
        list(decode_chunks(fields="label")([url]))
