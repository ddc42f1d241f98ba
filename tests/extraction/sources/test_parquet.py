"""Parquet files: columns, classes, row groups, keys, what is read, and what is refused."""

from __future__ import annotations

import builtins
import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest

from fmshards import store
from fmshards.clock import Clock
from fmshards.errors import FmshardsError, InputError
from fmshards.extraction import extract, verify
from fmshards.extraction.batches import decoded_batches
from fmshards.extraction.decode import Decoder
from fmshards.extraction.sources import ParquetSource, WebDatasetSource, open_source
from fmshards.model import parse_preprocess
from tests.servers import BUCKET, S3
from tests.servers.fixtures import s3  # noqa: F401  # a fixture

from ..conftest import TRAIN, jpeg, members_of, options, png, stored, tree, write_tar
from .helpers import items, make_folder

pa = pytest.importorskip("pyarrow", reason="pyarrow reads Parquet files")
pq = pytest.importorskip("pyarrow.parquet")

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["ant", "bee", "cow"]


def write(
    path: Path | str, count: int = 10, group: int = 4, names: Sequence[str] | None = None, first: int = 0, **more: Any
) -> str:
    """A file as Hugging Face's `datasets` writes it: images, labels, and the columns of `more`."""
    columns: dict[str, Any] = {
        "image": pa.array([{"bytes": png(first + i), "path": f"{i}.png"} for i in range(count)], IMAGE),
        "label": pa.array([(first + i) % 3 for i in range(count)], pa.int64()),
        **more,
    }
    columns = {name: column for name, column in columns.items() if column is not None}
    table = pa.table(columns)
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    os.makedirs(os.path.dirname(path), exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return str(path)


def everything(source: Any) -> list[tuple[str, dict[str, Any], bytes]]:
    samples = [source.load(item) for shard in range(len(source.inputs)) for item in items(source, shard)]
    return [(sample.key, sample.fields, sample.image.tobytes()) for sample in samples]


def test_a_file_of_hugging_faces(tmp_path: Path) -> None:
    path = write(tmp_path / "train-0.parquet", names=NAMES, text=pa.array(list("abcdefghij")))
    source = open_source(path)
    assert isinstance(source, ParquetSource)
    assert source.classes == tuple(NAMES)
    assert [(shard.samples, shard.url) for shard in source.inputs] == [(10, path)]
    found = pickle.loads(pickle.dumps(source)).load(items(source)[7])
    assert (found.key, found.fields) == ("train-0/00000007", {"cls": 1, "text": "h"})
    assert found.image.tobytes() == everything(source)[7][2]


def test_row_groups_are_shards_of_shard_size_at_most(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", count=10, group=3)
    other = write(tmp_path / "b.parquet", count=2, first=10)
    for size, counts in ((1, [3, 3, 3, 1, 2]), (6, [6, 4, 2]), (7, [6, 4, 2]), (9, [9, 1, 2]), (100, [10, 2])):
        source = open_source([path, other], shard_size=size)
        assert [shard.samples for shard in source.inputs] == counts
        assert [source.work(i) for i in range(len(counts))] == counts
        assert everything(source) == everything(open_source([path, other]))
    keys = [key for key, _, _ in everything(source)]
    assert keys == [*(f"a/{i:08d}" for i in range(10)), "b/00000000", "b/00000001"]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("x/1/part.parquet", "x/2/part.parquet"):
        write(tmp_path / name, count=1)
    source = open_source(str(tmp_path / "x" / "{1,2}" / "*.parquet"))
    assert [key for key, _, _ in everything(source)] == ["1/part/00000000", "2/part/00000000"]


def test_a_column_of_keys(tmp_path: Path) -> None:
    keys = [f"n{i}" for i in range(10)]
    source = open_source(write(tmp_path / "a.parquet", __key__=pa.array(keys)))
    assert [key for key, _, _ in everything(source)] == keys
    for bad, said in ((["n1", "n1", *keys[2:]], "'n1' comes twice"), ([None, *keys[1:]], "row 0: __key__ is None")):
        with pytest.raises(InputError, match=said):
            items(open_source(write(tmp_path / "a.parquet", __key__=pa.array(bad))))


def test_a_folder_of_files(tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / f"train-{i}.parquet", count=2)
    assert [Path(shard.url).name for shard in open_source(tmp_path).inputs] == ["train-0.parquet", "train-1.parquet"]
    write_tar(tmp_path / "a.tar", {"x.jpg": jpeg(0)})
    with pytest.raises(InputError, match=r"tars \('a\.tar' \.\.\.\) and Parquet files \('train-0"):
        open_source(tmp_path)
    assert isinstance(open_source(f"{tmp_path}/*.tar"), WebDatasetSource)
    with pytest.raises(InputError, match="name one kind"):
        open_source(f"{tmp_path}/*")


def test_a_table_beside_images_is_left_out(tmp_path: Path) -> None:
    write(make_folder(tmp_path, ["a/x.png"]) / "metadata.parquet")
    with pytest.warns(UserWarning, match=r"such as 'metadata\.parquet'; left out"):
        assert len(items(open_source(tmp_path))) == 1


# columns


def binary(count: int = 10) -> Any:
    return pa.array([png(i) for i in range(count)])


def test_which_column_is_the_image(tmp_path: Path) -> None:
    plain = everything(open_source(write(tmp_path / "a.parquet")))
    same = open_source(write(tmp_path / "a.parquet", image=None, photo=binary()))
    assert everything(same) == plain
    beside = open_source(write(tmp_path / "a.parquet", thumb=binary()))
    assert items(beside)[3].fields == {"cls": 0, "thumb": png(3)}
    path = write(tmp_path / "a.parquet", image=None, left=binary(), right=binary())
    with pytest.raises(InputError, match=r"several columns that may be the image \(left, right\); .*image_field="):
        open_source(path)
    assert items(open_source(path, image_field="right"))[0].fields.keys() == {"cls", "left"}


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("nothing", "no column 'nothing'; it has image, label, url"),
        ("url", "'url' is string; expected encoded images"),
        (None, r"no column of images .*it has label, url\. Where one holds URLs"),
    ],
)
def test_columns_that_are_no_image(tmp_path: Path, wanted: str | None, said: str) -> None:
    more = {"image": None} if wanted is None else {}
    path = write(tmp_path / "a.parquet", url=pa.array(["http://x"] * 10), **more)
    with pytest.raises(InputError, match=said):
        open_source(path, image_field=wanted)


def test_what_cannot_travel_is_named_before_anything_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", at=pa.array([0] * 10, pa.timestamp("us")))
    with pytest.raises(InputError, match=r"column 'at' is timestamp.*--drop-field at"):
        open_source(path)
    assert open_source(path, drop_fields=["at"]).load(items(open_source(path, drop_fields=["at"]))[0]).image


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, r"key 'a/00000006' \(row 6\): it has no image"),
        ({"bytes": None, "path": "x/6.png"}, r"row 6.*no image but the path 'x/6\.png'.*embed"),
    ],
)
def test_a_row_without_an_image_is_named(tmp_path: Path, value: Any, said: str) -> None:
    rows = [{"bytes": png(i), "path": ""} for i in range(10)]
    rows[6] = value
    with pytest.raises(InputError, match=said):
        items(open_source(write(tmp_path / "a.parquet", image=pa.array(rows, IMAGE))))


def test_files_must_have_the_same_columns_and_classes(tmp_path: Path) -> None:
    first = write(tmp_path / "a.parquet", names=NAMES)
    for more, said in (
        ({"label": pa.array([1.0] * 10)}, "its column 'label' is double, that of the first file int64"),
        ({"label": None}, "it has no column 'label'; it has image"),
        ({"text": pa.array(["a"] * 10)}, "it has a column 'text', which the first file has not"),
        ({"names": NAMES[::-1]}, "its metadata names other classes"),
    ):
        other = write(tmp_path / "b.parquet", **{"names": NAMES, **more})
        with pytest.raises(InputError, match=rf"b\.parquet: {said}"):
            open_source([first, other])


def test_classes_that_are_given(tmp_path: Path) -> None:
    plain, named = write(tmp_path / "a.parquet"), write(tmp_path / "b.parquet", names=NAMES)
    assert open_source(plain).classes is None
    assert open_source(plain, classes=NAMES).classes == tuple(NAMES)
    assert open_source(named, classes=[*NAMES, "dog"]).classes == (*NAMES, "dog")
    with pytest.raises(InputError, match=r"class 0 is 'ant' here, 'cow' there.*its metadata numbers them"):
        open_source(named, classes=NAMES[::-1])
    few = open_source(plain, classes=NAMES[:2])
    with pytest.raises(InputError, match="cls is 2, and 2 classes are given"):
        few.load(items(few)[2])


# what is read


def test_only_the_columns_that_are_wanted_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", noise=pa.array([os.urandom(1 << 16) for _ in range(10)]))
    read = 0

    class Counted(store.Passing):
        def read(self, url: str, start: int = 0, length: int | None = None) -> bytes:
            nonlocal read
            data = super().read(url, start, length)
            read += len(data)
            return data

    found = []
    with store.wrapped(Counted):
        for more in ({}, {"drop_fields": ["noise"]}, {"fields": ["cls"]}):
            read = 0
            source = open_source(path, **more)
            read = 0
            found.append(next(iter(items(source))).fields.keys())
            assert (read > 10 << 16) == (not more)
    assert found == [{"cls", "noise"}, {"cls"}, {"cls"}]


def test_few_rows_are_in_memory_at_a_time(tmp_path: Path) -> None:
    """A row group far larger than its pages: what is held does not grow with it."""
    images = [os.urandom(1 << 19) for _ in range(96)]
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": images}), path, row_group_size=96, write_batch_size=2, use_dictionary=False)
    source = open_source(path)
    pool, most = pa.default_memory_pool(), 0
    before = pool.bytes_allocated()
    for item, image in zip(source.items(0), images, strict=True):
        assert item.data == image
        most = max(most, pool.bytes_allocated() - before)
    assert most < 24 << 20 < sum(map(len, images))


def read_to_end(source: Any, workers: int) -> list[str | None]:
    decode = Decoder(source, parse_preprocess("none"))
    shards = iter(range(len(source.inputs)))
    batches = decoded_batches(source, shards, 3, decode, workers, False, Clock())
    return [source.digest_read(batch.shard) for batch in batches if batch.last]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_digest_is_that_of_the_rows(tmp_path: Path, workers: int) -> None:
    path = write(tmp_path / "a.parquet", group=5)
    source = open_source(path, shard_size=5)
    assert source.digest_read(0) is None
    contents = [open_source(path, shard_size=5).content(i) for i in range(2)]
    assert read_to_end(source, workers) == contents
    assert len({str(content) for content in contents}) == 2
    stamp = source.stamp(0)
    again = write(tmp_path / "a.parquet", group=5)  # the same rows, written at another time
    assert open_source(again).stamp(0) != stamp
    assert [open_source(again, shard_size=5).content(i) for i in range(2)] == contents
    for more in ({"label": pa.array([0] * 10)}, {"image": binary()[::-1]}):
        changed = open_source(write(tmp_path / "a.parquet", group=5, **more), shard_size=5)
        assert changed.content(0) != contents[0]


# files that are not what they should be


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def tar(path: Path) -> None:
    write_tar(path, {"x.jpg": jpeg(0)})


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, tar, empty])
def test_what_is_no_parquet_file_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = Path(write(tmp_path / "a.parquet"))
    damage(path)
    with pytest.raises(InputError, match=r"a\.parquet is not a whole Parquet file: .*; get it again") as caught:
        open_source(path)
    assert "\n" not in str(caught.value)


def test_files_without_rows_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.parquet holds no row"):
        open_source(write(tmp_path / "a.parquet", count=0))
    with pytest.raises(InputError, match="nothing is there"):
        open_source(tmp_path / "b.parquet")


def test_a_damaged_page_is_an_error(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.parquet"))
    data = bytearray(path.read_bytes())
    data[4:40] = bytes(36)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.parquet is not a whole Parquet file"):
        items(open_source(path))


def test_a_file_that_is_written_anew_meanwhile_is_an_error(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.parquet"))
    write(tmp_path / "a.parquet", group=3)
    with pytest.raises(InputError, match=r"a\.parquet was written anew"):
        items(source)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = write(tmp_path / "a.parquet"), builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'fmshards\[parquet\]'"):
        open_source(path)


# from stores


def test_from_an_object_store(tmp_path: Path, s3: S3) -> None:  # noqa: F811  # a fixture, imported above
    local = [write(tmp_path / "data" / f"train-{i}.parquet", count=6, first=6 * i, names=NAMES) for i in range(2)]
    folder = s3.root / BUCKET / "data"
    folder.mkdir()
    for path in local:
        (folder / Path(path).name).write_bytes(Path(path).read_bytes())
    source = open_source(f"s3://{BUCKET}/data/train-{{0..1}}.parquet", shard_size=4)
    wanted = open_source(tmp_path / "data", shard_size=4)
    assert everything(source) == everything(wanted)
    assert [source.content(i) for i in range(4)] == [wanted.content(i) for i in range(4)]
    assert source.classes == tuple(NAMES)
    stamp = str(source.stamp(0))
    assert "ETag" in stamp
    write(folder / "train-0.parquet", count=6, first=1)
    assert open_source(f"s3://{BUCKET}/data/train-0.parquet").stamp(0) != stamp
    with pytest.raises(FmshardsError, match=r"train-7\.parquet: it does not exist"):
        open_source(f"s3://{BUCKET}/data/train-7.parquet")


# whole sets


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar of 40 bundled images, and the same as Parquet files."""
    folder = tmp_path_factory.mktemp("real")
    members = members_of(TRAIN[0], range(40))
    write_tar(folder / "in.tar", members)
    write_parquet(folder / "in.parquet", members)
    return folder


def write_parquet(path: Path, members: list[tuple[str, bytes]]) -> None:
    images = [data for name, data in members if name.endswith(".jpg")]
    labels = [int(data) for name, data in members if name.endswith(".cls")]
    pq.write_table(pa.table({"jpg": images, "cls": labels}), path, row_group_size=10)


def test_workers_change_no_byte(real: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        extract(real / "in.parquet", tmp_path / str(workers), shard_size=20, workers=workers, **options())
    whole = tree(tmp_path / "0")
    assert {name: data for name, data in tree(tmp_path / "2").items() if name.endswith(".tar")} == {
        name: data for name, data in whole.items() if name.endswith(".tar")
    }
    assert sum(name.endswith(".tar") for name in whole) == 2


def test_the_same_images_give_the_same_features(real: Path, tmp_path: Path) -> None:
    extract(real / "in.tar", tmp_path / "tar", **options())
    extract(real / "in.parquet", tmp_path / "parquet", **options())
    tars, tables = (stored(tmp_path / name, "layer2") for name in ("tar", "parquet"))
    assert (tars.streams["base"] == tables.streams["base"]).all()
    assert list(map(int, tars.fields["cls"])) == tables.fields["cls"]
    report = verify(str(tmp_path / "parquet"), options()["model"], weights=options()["weights"])
    assert (report.problems, report.recomputed) == ((), 8)


def test_a_file_that_changed_since_the_plan_is_refused(real: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "in.parquet", tmp_path / "set"
    members = members_of(TRAIN[0], range(40))
    write_parquet(path, members)
    more = options(shard_size=20)
    extract(path, out, **more)
    before = tree(out)
    write_parquet(path, members)  # touched
    assert extract(path, out, **more).samples == 40
    write_parquet(path, [(n, b"0" if n == members[1][0] else d) for n, d in members])
    with pytest.raises(FmshardsError, match=r"inputs 000000: .*in\.parquet is not what .*000000\.tar was made from"):
        extract(path, out, **more)
    assert tree(out) == before


def test_memory_urls_too() -> None:
    memory = fsspec.filesystem("memory")
    try:
        with memory.open("/fmshards-parquet/a.parquet", "wb") as file:
            pq.write_table(pa.table({"image": [png(0)], "cls": [1]}), file)
        assert everything(open_source("memory://fmshards-parquet/a.parquet"))[0][:2] == ("a/00000000", {"cls": 1})
    finally:
        memory.rm("/fmshards-parquet", recursive=True)
