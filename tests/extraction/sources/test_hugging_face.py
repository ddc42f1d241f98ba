"""Hugging Face: data sets of its library, and Parquet files on its hub, pinned to a revision."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from PIL import Image

from fmshards.errors import InputError
from fmshards.extraction import extract, verify
from fmshards.extraction.sources import DatasetSource, ParquetSource, open_source
from fmshards.shards import read_manifest

from ..conftest import TRAIN, jpeg, members_of, options, png, stored
from .helpers import items

NAMES = ["ant", "bee", "cow"]
REVISION = "0123456789abcdef0123456789abcdef01234567"


class ClassLabel:
    names = NAMES


class Fake:
    """What of a `datasets.Dataset` is used."""

    _fingerprint = "8f3a"

    def __init__(self) -> None:
        self.features = {"image": object(), "label": ClassLabel()}

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"image": Image.open(io.BytesIO(png(i))), "label": i % 3, "text": str(i)}


def test_names_and_fingerprint_of_a_data_set() -> None:
    source = open_source(Fake(), shard_size=4)
    assert isinstance(source, DatasetSource)
    assert (source.classes, source.fingerprint()) == (tuple(NAMES), "8f3a")
    assert source.load(items(source, 1)[0]).fields == {"cls": 1, "text": "4"}
    assert open_source(Fake(), classes=[*NAMES, "dog"]).classes == (*NAMES, "dog")
    with pytest.raises(InputError, match="class 0 is 'ant' here, 'bee' there"):
        open_source(Fake(), classes=["bee", "ant"])


def test_an_image_that_is_not_decoded() -> None:
    source = open_source([{"image": {"bytes": png(3), "path": None}}, {"image": {"bytes": None, "path": "x.png"}}])
    first, second = items(source)
    assert source.load(first).image.size == (6, 6)
    with pytest.raises(InputError, match=r"no image but the path 'x\.png' to one; embed"):
        source.load(second)


def test_a_dict_of_splits_is_no_data_set() -> None:
    with pytest.raises(InputError, match=r"dict of 'train', 'test'; .*data\['train'\]"):
        open_source({"train": Fake(), "test": Fake()})
    assert len(items(open_source({i: (Image.new("RGB", (4, 4)), i) for i in range(3)}))) == 3


def test_the_library_itself(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="Hugging Face's own library is tried where it is installed")
    members = members_of(TRAIN[0], range(24))
    rows = {
        "image": [{"bytes": data, "path": None} for name, data in members if name.endswith(".jpg")],
        "label": [int(data) for name, data in members if name.endswith(".cls")],
    }
    names = [f"class {i}" for i in range(10)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    data = datasets.Dataset.from_dict(rows, features)
    data.to_parquet(str(tmp_path / "train.parquet"))
    encoded = data.cast_column("image", datasets.Image(decode=False))
    sources = {"data": data, "encoded": encoded, "file": tmp_path / "train.parquet"}
    for name, source in sources.items():
        found = open_source(source)
        assert found.classes == tuple(names)
        if name != "file":
            assert found.fingerprint() == source._fingerprint
        extract(source, tmp_path / name, workers=2 if name == "data" else 0, **options())
    with pytest.raises(InputError, match="give one split"):
        open_source(datasets.DatasetDict({"train": data}))
    ours = [stored(tmp_path / name, "layer2") for name in sources]
    for each in ours[1:]:
        assert (each.streams["base"] == ours[0].streams["base"]).all()
        assert each.fields == ours[0].fields == {"cls": rows["label"]}


# the hub


class Hub(MemoryFileSystem):
    """As the hub's file system answers: paths hold the revision, a file is known by its blob."""

    protocol = "hf"
    store: dict[str, Any] = {}  # noqa: RUF012  # MemoryFileSystem keeps it so
    pseudo_dirs = [""]  # noqa: RUF012  # as its base has it

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("hf://").rstrip("/")

    def info(self, path: str, **more: Any) -> dict[str, Any]:
        found = super().info(path, **more)
        found.pop("created", None)
        return found if found["type"] == "directory" else {**found, "blob_id": f"{hash(self.cat_file(path)):x}"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    before = _registry.get("hf")
    fsspec.register_implementation("hf", Hub, clobber=True)
    made = Hub(skip_instance_cache=True)
    yield made
    Hub.store.clear()
    Hub.clear_instance_cache()
    _registry.pop("hf")
    if before is not None:
        _registry["hf"] = before


def test_parquet_files_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    root = f"datasets/owner/name@{REVISION}/data"
    for i in range(2):
        file = io.BytesIO()
        images = [{"bytes": jpeg(10 * i + j), "path": None} for j in range(10)]
        pq.write_table(pa.table({"image": images, "label": list(range(10))}), file)
        hub.pipe_file(f"{root}/train-{i}.parquet", file.getvalue())
    for url in (f"hf://{root}/*.parquet", f"hf://{root}/train-{{0..1}}.parquet", f"hf://{root}/", f"hf://{root}"):
        source = open_source(url)
        assert isinstance(source, ParquetSource)
        assert [shard.url for shard in source.inputs] == [f"hf://{root}/train-{i}.parquet" for i in range(2)]
        assert str(source.stamp(0)).startswith("blob_id ")
    extract(f"hf://{root}/", tmp_path / "set", **options())
    assert read_manifest(str(tmp_path / "set")).samples == 20
    assert extract(f"hf://{root}/", tmp_path / "set", **options()).samples == 20
    assert verify(str(tmp_path / "set"), options()["model"], weights=options()["weights"]).problems == ()


@pytest.mark.parametrize("end", ["train-0.parquet", "*.parquet", "", "list.csv"])
@pytest.mark.parametrize("revision", ["", "@main", "@0123abc"])
def test_what_is_not_pinned_is_refused(hub: Hub, revision: str, end: str) -> None:
    with pytest.raises(InputError, match="expected a revision that cannot move, the 40 digits of a commit"):
        open_source(f"hf://datasets/owner/name{revision}/data/{end}")
