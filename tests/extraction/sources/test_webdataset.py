"""WebDataset tars: what is read, in which order, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from pathlib import Path

import numpy as np
import pytest

from fmshards.errors import InputError
from fmshards.extraction.sources import WebDatasetSource, open_source

from ..conftest import TRAIN, jpeg, write_tar
from .helpers import items


def test_bundled_tar_reads_as_webdataset_reads_it() -> None:
    wds = pytest.importorskip("webdataset")
    source = WebDatasetSource(str(TRAIN[0]))
    expected = list(wds.WebDataset([str(TRAIN[0])], shardshuffle=False))
    found = items(source)
    assert [item.key for item in found] == [sample["__key__"] for sample in expected]
    assert [item.data for item in found] == [sample["jpg"] for sample in expected]
    assert [item.fields for item in found] == [{"cls": sample["cls"]} for sample in expected]
    assert source.inputs[0].bytes == TRAIN[0].stat().st_size


def test_keys_end_at_the_first_dot_and_keep_their_folder(tmp_path: Path) -> None:
    members = {"a/b.c/x.seg.JPG": b"1", "a/b.c/x.cls": b"2", "__meta__/y.jpg": b"3", "z.jpg": b"4"}
    source = WebDatasetSource(str(write_tar(tmp_path / "a.tar", members)), image_field=None)
    first, second = items(source)
    assert (first.key, first.data, first.fields) == ("a/b.c/x", b"1", {"cls": b"2"})
    assert (second.key, second.fields) == ("z", {})


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_every_tar_dialect(tmp_path: Path, kind: int) -> None:
    name = "folder/" * 12 + "k" * 60  # too long for the name field alone; ustar splits it
    members = {f"{name}.jpg": b"1" * 700, f"{name}.cls": b"2"}
    source = WebDatasetSource(str(write_tar(tmp_path / "a.tar", members, kind)))
    assert [(item.key, item.data, item.fields) for item in items(source)] == [(name, b"1" * 700, {"cls": b"2"})]


def test_non_ascii_and_very_long_names(tmp_path: Path) -> None:
    name = "фото/" + "é" * 200
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = write_tar(tmp_path / f"{kind}.tar", {f"{name}.jpg": b"1"}, kind)
        assert items(WebDatasetSource(str(path)))[0].key == name


def test_gzip(tmp_path: Path) -> None:
    plain = write_tar(tmp_path / "a.tar", {"x.jpg": b"1", "y.jpg": b"2"}).read_bytes()
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(plain))
    assert [item.data for item in items(WebDatasetSource(str(packed)))] == [b"1", b"2"]
    packed.write_bytes(gzip.compress(plain)[:-30])
    with pytest.raises(InputError, match=r"a\.tar\.gz is not a whole tar"):
        items(WebDatasetSource(str(packed)))


def test_every_flipped_header_bit_is_noticed(tmp_path: Path) -> None:
    """A damaged header must never pass for the end of the archive, nor change what is read."""
    data = write_tar(tmp_path / "a.tar", {f"{i}.jpg": bytes([i]) * 40 for i in range(4)}).read_bytes()
    path = tmp_path / "bad.tar"
    random = np.random.default_rng(0)
    for _ in range(300):
        header = int(random.integers(4)) * 1024
        bad = bytearray(data)
        bad[header + int(random.integers(512))] ^= 1 << int(random.integers(8))
        path.write_bytes(bad)
        with pytest.raises(InputError, match=r"bad\.tar"):
            items(WebDatasetSource(str(path)))


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    data = write_tar(tmp_path / "a.tar", {f"{i}.jpg": bytes([i]) * 40 for i in range(4)}).read_bytes()
    path = tmp_path / "bad.tar"
    for length in [*range(0, 4 * 1024 + 1, 64), 1, 511, 513, 4 * 1024 + 511]:
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"bad\.tar"):
            items(WebDatasetSource(str(path)))


def test_a_message_says_where(tmp_path: Path) -> None:
    data = bytearray(write_tar(tmp_path / "a.tar", {"x.jpg": b"1", "y.jpg": b"2"}).read_bytes())
    data[1024] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.tar.*checksum.*byte 1536, after member 'x\.jpg'"):
        items(WebDatasetSource(str(tmp_path / "a.tar")))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("x.jpg", b"1"), ("y.jpg", b"2"), ("x.cls", b"3")], "key 'x' comes twice"),
        ([("x.jpg", b"1"), ("x.JPG", b"2")], "'jpg' twice"),
        ([("x.cls", b"1")], "key 'x' has no image field; it has cls"),
        ([("x.jpg", b"1"), ("x.png", b"2")], r"several image fields \(jpg, png\)"),
        ([], "holds no sample"),
    ],
)
def test_bad_samples(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    path = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(InputError, match=message) as caught:
        items(WebDatasetSource(str(path)))
    assert "a.tar" in str(caught.value)


def test_image_field_is_chosen_by_name(tmp_path: Path) -> None:
    path = str(write_tar(tmp_path / "a.tar", {"x.jpg": b"1", "x.png": b"2"}))
    item = items(WebDatasetSource(path, image_field=".PNG"))[0]
    assert (item.data, item.fields) == (b"2", {"jpg": b"1"})
    with pytest.raises(InputError, match="no image field 'webp'; it has jpg, png"):
        items(WebDatasetSource(path, image_field="webp"))


def test_links_and_joined_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("x.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "y.jpg"
        tar.addfile(link)
    with pytest.raises(InputError, match=r"'x\.jpg' is of type"):
        items(WebDatasetSource(str(path)))
    whole = write_tar(path, {"x.jpg": b"1"}).read_bytes()
    path.write_bytes(whole + whole)
    with pytest.raises(InputError, match="after its end marker"):
        items(WebDatasetSource(str(path)))


def test_members_without_a_key_are_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"README": b"1", "x.jpg": b"1", ".hidden": b"2"})
    with pytest.warns(UserWarning, match="2 members .* 'README'"):
        assert len(items(WebDatasetSource(str(path)))) == 1


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is there"):
        open_source(str(tmp_path / "no-{000..002}.tar"))


# names with dots


def lettered(names: list[str]) -> list[tuple[str, bytes]]:
    return [(name, b"1") for name in names]


@pytest.mark.parametrize(
    ("names", "renamed"),
    [
        (["22.05.png", "22.07.png"], "22-05.png"),
        (["22.05.png", "22.05.cls", "22.07.png", "22.07.cls"], "22-05.png"),
        (["cat.0.jpg", "cat.1.jpg", "dog.0.jpg", "dog.1.jpg"], "cat-0.jpg"),
        (["shots/IMG.2021.05.03.png", "shots/IMG.2021.05.04.png"], "IMG-2021-05-03.png"),
        (["a.red.png", "a.blue.png"], "a-blue.png"),
        (["7.5.png", "7.5.cls", "8.5.png", "8.5.cls"], "7-5.png"),  # one image a sample, and a label `5.cls`
    ],
)
def test_names_with_dots_are_told_with_the_rule(tmp_path: Path, names: list[str], renamed: str) -> None:
    path = write_tar(tmp_path / "a.tar", lettered(names))
    with pytest.raises(InputError, match=r"a\.tar: key .*ends at the first dot") as caught:
        items(WebDatasetSource(str(path)))
    assert f"('{renamed}')" in str(caught.value)


@pytest.mark.parametrize(
    ("names", "field"),
    [
        (["22.05.png", "22.07.png", "22.09.png"], "05.png"),
        (["21.00.png", "21.01.png", "22.00.png", "22.01.png"], "00.png"),
        ([f"{pet}.{i}.jpg" for pet in ("cat", "dog") for i in range(5)], "0.jpg"),
    ],
)
def test_naming_one_field_loses_no_image(tmp_path: Path, names: list[str], field: str) -> None:
    path = write_tar(tmp_path / "a.tar", lettered(names))
    with pytest.raises(InputError, match="ends at the first dot"):
        items(WebDatasetSource(str(path), image_field=field))


def test_views_of_a_sample_may_be_numbered(tmp_path: Path) -> None:
    names = [f"{i:03d}.{view}.jpg" for i in range(4) for view in range(2)]
    found = items(WebDatasetSource(str(write_tar(tmp_path / "a.tar", lettered(names))), image_field="0.jpg"))
    assert [(item.key, sorted(item.fields)) for item in found] == [(f"{i:03d}", ["1.jpg"]) for i in range(4)]


def test_a_sample_of_thousands_of_members_is_no_sample(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", lettered([f"x.{i}.jpg" for i in range(1100)]))
    with pytest.raises(InputError, match=r"more than 1024 fields.*first dot"):
        items(WebDatasetSource(str(path), image_field="0.jpg"))


# what is no tar


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (bz2.compress(b"x" * 2000), "packed with bzip2.*bunzip2"),
        (lzma.compress(b"x" * 2000), "packed with xz.*unxz"),
        (b"\x28\xb5\x2f\xfd" + bytes(2000), "packed with zstd.*unzstd"),
        (b"PK\x03\x04" + b"x" * 2000, "a zip archive.*unzip"),
        (b"PK\x05\x06" + bytes(18), "an empty zip archive"),
        (b"7z\xbc\xaf\x27\x1c" + b"x" * 2000, "a 7z archive"),
        (jpeg(0), "a JPEG image.*folder"),
        (b"PAR1" + b"x" * 2000, "a Parquet file"),
    ],
)
def test_other_files_are_named(tmp_path: Path, head: bytes, message: str) -> None:
    (tmp_path / "x.tar").write_bytes(head)
    with pytest.raises(InputError, match=message) as caught:
        items(open_source(str(tmp_path / "x.tar")))
    assert "x.tar" in str(caught.value)
    assert "get it again" not in str(caught.value)


def test_a_member_may_be_named_as_another_file_begins(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"BZh9.jpg": b"1"})
    assert [item.key for item in items(WebDatasetSource(str(path)))] == ["BZh9"]


def test_tars_without_members_are_refused_before_any_is_read(tmp_path: Path) -> None:
    urls = [str(write_tar(tmp_path / "a.tar", {"x.jpg": b"1"})), str(write_tar(tmp_path / "b.tar", {}))]
    with pytest.raises(InputError, match=r"b\.tar holds no sample; leave"):
        open_source(urls)
    with pytest.raises(InputError, match="is a folder"):
        open_source([urls[0], str(tmp_path)])
