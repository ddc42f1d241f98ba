"""A folder of class folders: classes, order, links, names, and what is refused."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

from fmshards.errors import InputError
from fmshards.extraction.sources import FolderSource, open_source

from ..conftest import png
from .helpers import items, make_folder


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


# classes


def test_what_lies_there_in_place_of_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"holds no image; .*files such as 'photos.zip'.*unpack"):
        open_source(tmp_path)


def test_every_folder_is_a_class(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ["a/x.png", "c/deep/er/x.png"])
    (root / "b").mkdir()
    (root / "d").mkdir()
    (root / "d" / "notes").mkdir()
    (root / ".git").mkdir()
    with pytest.warns(UserWarning, match=r"2 of 4 class folders hold no image: b, d;"):
        source = FolderSource(str(root), 10, 0)
    assert source.classes == ("a", "b", "c", "d")
    assert {item.fields["class"]: item.fields["cls"] for item in items(source)} == {"a": 0, "c": 2}


def test_folders_without_an_image_do_not_make_loose_images_classes(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ["x.png", "y.png"])
    (root / "notes").mkdir()
    assert FolderSource(str(root), 10, 0).classes is None


# links and names


def test_a_link_to_a_folder_that_is_read_repeats_nothing(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "above" / "root", ["b/x.png", "b/sub/y.png", "c/z.png"])
    make_folder(tmp_path / "above", ["other/w.png"])
    (root / "b" / "up").symlink_to("..")
    (root / "b" / "far_up").symlink_to(tmp_path)
    (root / "c" / "side").symlink_to("../b/sub")
    (root / "a").symlink_to("b")  # sorts before what it names
    with pytest.warns(UserWarning, match="4 links lead to folders that are read already"):
        source = FolderSource(str(root), 10, 0)
    assert sorted(item.data for item in items(source)) == ["b/sub/y.png", "b/x.png", "c/z.png"]
    assert source.classes == ("a", "b", "c")


def test_links_are_followed(tmp_path: Path) -> None:
    make_folder(tmp_path / "store", ["cats/x.png", "cats/in/y.png", "z.png"])
    root = tmp_path / "root"
    (root / "dog").mkdir(parents=True)
    (root / "cat").symlink_to(tmp_path / "store" / "cats")
    (root / "dog" / "z.png").symlink_to(tmp_path / "store" / "z.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = FolderSource(str(root), 10, 0)
    assert sorted(item.data for item in items(source)) == ["cat/in/y.png", "cat/x.png", "dog/z.png"]
    assert source.load(items(source)[0]).image.size == (6, 6)


@pytest.mark.parametrize("name", ["a/gone.png", "gone_class", "a/gone.txt", "a/self.png"])
def test_a_link_to_nothing_is_named(tmp_path: Path, name: str) -> None:
    root = make_folder(tmp_path, ["a/x.png"])
    (root / name).symlink_to("self.png" if "self" in name else "/nowhere/at/all")
    with pytest.raises(InputError, match=rf"{name} is a link that leads nowhere"):
        open_source(root)


@pytest.mark.parametrize("name", [b"a/caf\xe9.png", b"caf\xe9/x.png", b"a/\xff/x.png"])
def test_a_name_that_is_not_utf8_is_named(tmp_path: Path, name: bytes) -> None:
    root = make_folder(tmp_path, ["a/x.png"])
    path = os.path.join(os.fsencode(root), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(png(1))
    with pytest.raises(InputError, match=r"\\x(e9|ff).*not UTF-8") as caught:
        open_source(root)
    str(caught.value).encode()


def test_what_is_no_plain_file_is_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ["a/x.png"])
    os.mkfifo(root / "a" / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png is no plain file"):
        open_source(root)
