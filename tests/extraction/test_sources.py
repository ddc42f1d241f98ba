"""Sources: what they read, in which order, and what they refuse."""

from __future__ import annotations

import gzip
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fmshards.errors import InputError
from fmshards.extraction.sources import DatasetSource, FolderSource, Source, WebDatasetSource, open_source
from fmshards.extraction.sources.dataset import to_image

from .conftest import TRAIN, jpeg, png, write_tar


def items(source: Source, shard: int = 0) -> list:
    return list(source.items(shard))


# WebDataset


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


# folder


def make_folder(root: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(i))
    return root


def test_folder_is_a_seeded_permutation_with_classes(tmp_path: Path) -> None:
    names = [f"{c}/{i}.png" for c in ("cat", "dog", "ant") for i in range(20)]
    root = make_folder(tmp_path, names)
    source = FolderSource(str(root), shard_size=25, seed=0)
    assert source.classes == ("ant", "cat", "dog")
    assert [shard.samples for shard in source.inputs] == [25, 25, 10]
    read = [item for shard in range(3) for item in items(source, shard)]
    assert sorted(item.data for item in read) == sorted(names)
    for item in read:
        assert item.fields == {"path": item.data, "class": item.data[:3], "cls": source.classes.index(item.data[:3])}
        assert item.key == item.data[:-4]
    first = [item.fields["cls"] for item in read[:25]]
    assert len(set(first)) == 3
    again = FolderSource(str(root), shard_size=60, seed=0)
    assert [item.key for item in items(again)] == [item.key for item in read]
    other = FolderSource(str(root), shard_size=60, seed=1)
    assert [item.key for item in items(other)] != [item.key for item in read]
    sample = source.load(read[0])
    assert sample.image.mode == "RGB"


def test_folder_keys_stay_unique(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ["a/x.png", "a/x.jpg", "a/y.png", "b/x.png"])
    keys = {item.key for item in items(FolderSource(str(root), 10, 0))}
    assert keys == {"a/x.png", "a/x.jpg", "a/y", "b/x"}


def test_folder_identity_follows_names_and_sizes(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ["a/x.png", "a/y.png"])
    before = FolderSource(str(root), 10, 0).inputs
    assert FolderSource(str(root), 10, 0).inputs == before
    (root / "a/x.png").write_bytes(png(0) + b"more")
    assert FolderSource(str(root), 10, 0).inputs != before


def test_folder_without_classes(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ["x.png", "y.png"])
    source = FolderSource(str(root), 10, 0)
    assert source.classes is None
    assert items(source)[0].fields.keys() == {"path"}


def test_folder_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no image"):
        open_source(tmp_path)
    make_folder(tmp_path, ["a/x.png", "loose.png"])
    with pytest.raises(InputError, match=r"images outside of them, such as 'loose\.png'"):
        open_source(tmp_path)
    (tmp_path / "loose.png").unlink()
    (tmp_path / "a" / "notes.txt").write_text("hello")
    with pytest.warns(UserWarning, match=r"notes\.txt"):
        open_source(tmp_path)
    (tmp_path / ".DS_Store").write_text("hidden")
    (tmp_path / "a" / "notes.txt").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_source(tmp_path)


# data set


def test_dataset_forms() -> None:
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    image = Image.fromarray(pixels)
    samples = [
        (image, 3),
        (torch.from_numpy(pixels.transpose(2, 0, 1).copy()), torch.tensor(4)),
        (pixels, np.int64(5)),
        {"image": image, "label": 6, "text": "a", "box": torch.tensor([1.0, 2.0]), "__key__": "k"},
        image,
    ]
    source = DatasetSource(samples, shard_size=3)
    assert [shard.samples for shard in source.inputs] == [3, 2]
    loaded = [source.load(item) for shard in (0, 1) for item in items(source, shard)]
    for sample in loaded:
        assert np.array_equal(np.asarray(sample.image), pixels)
    assert [sample.fields for sample in loaded[:3]] == [{"cls": 3}, {"cls": 4}, {"cls": 5}]
    assert loaded[3].fields == {"cls": 6, "text": "a", "box": [1.0, 2.0]}
    assert [sample.key for sample in loaded] == ["00000000", "00000001", "00000002", "k", "00000004"]


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((6, 5), np.uint8),
        np.zeros((6, 5, 1), np.uint8),
        np.zeros((1, 6, 5), np.uint8),
        torch.zeros(1, 6, 5, dtype=torch.uint8),
        torch.zeros(6, 5, 3, dtype=torch.uint8),
        png(0, (5, 6)),
    ],
)
def test_image_forms(value: object) -> None:
    image = to_image(value)
    assert (image.mode, image.size) == ("RGB", (5, 6))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(3, 4, 5), "float32"),
        (np.zeros((2, 4, 5), np.uint8), r"\(2, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (7, "int"),
        (b"no image", "cannot be decoded"),
        (Image.new("I;16", (4, 4)), "more than 8 bits"),
    ],
)
def test_images_that_are_refused(value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_image(value)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ((1, 2, 3), "tuple of 3"),
        ({"picture": 1}, "no image under"),
        ({"image": 1, "img": 2}, "several images"),
        ((Image.new("RGB", (4, 4)), object()), "field 'cls'"),
    ],
)
def test_dataset_refusals(sample: object, message: str) -> None:
    source = DatasetSource([sample], 10)
    with pytest.raises(InputError, match=message):
        source.load(items(source)[0])


def test_empty_and_unsized_data_sets() -> None:
    with pytest.raises(InputError, match="is empty"):
        open_source([])
    with pytest.raises(InputError, match=r"no len\(\)"):
        open_source(iter([1]))


# which is which


def test_open_source_picks(tmp_path: Path) -> None:
    write_tar(tmp_path / "tars" / "b.tar", {"x.jpg": jpeg(0)})
    write_tar(tmp_path / "tars" / "a.tar", {"x.jpg": jpeg(0)})
    tars = open_source(tmp_path / "tars")
    assert [Path(shard.url).name for shard in tars.inputs] == ["a.tar", "b.tar"]
    assert [shard.name for shard in tars.inputs] == ["000000", "000001"]
    assert isinstance(open_source(make_folder(tmp_path / "images", ["a/x.png"])), FolderSource)
    assert isinstance(open_source([(Image.new("RGB", (4, 4)), 0)]), DatasetSource)
    assert isinstance(open_source([str(tmp_path / "tars" / "a.tar")]), WebDatasetSource)
    with pytest.raises(InputError, match="one shard comes from one input shard"):
        open_source(tmp_path / "tars", shard_size=10)


def test_sources_pickle(tmp_path: Path) -> None:
    import pickle

    source = open_source(make_folder(tmp_path, ["a/x.png"]))
    assert pickle.loads(pickle.dumps(source)).load(items(source)[0]).image.size == (6, 6)
