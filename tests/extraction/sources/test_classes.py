"""Class names that are given: two sets number their classes alike."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
from PIL import Image

from fmshards.errors import InputError
from fmshards.extraction.sources import class_difference, open_source, read_classes

from ..conftest import png, write_tar
from .helpers import items, make_folder

NAMES = ["cow", "ant", "bee"]


def test_a_folder_that_lacks_a_class_keeps_the_numbers(tmp_path: Path) -> None:
    source = open_source(make_folder(tmp_path, ["ant/x.png", "cow/x.png"]), classes=NAMES)
    assert source.classes == tuple(NAMES)
    assert {item.fields["class"]: item.fields["cls"] for item in items(source)} == {"ant": 1, "cow": 0}


def test_a_folder_of_another_name_is_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "a", ["ant/x.png", "cows/x.png"])
    with pytest.raises(InputError, match=r"'cows' is not among the 3 classes .*'cow'"):
        open_source(root, classes=NAMES)
    with pytest.raises(InputError, match="no folder in it holds an image"):
        open_source(make_folder(tmp_path / "b", ["x.png"]), classes=NAMES)


@pytest.mark.parametrize("text", ["cow\nant\nbee\n", "cow\r\nant\r\nbee", "\ufeffcow\nant\nbee"])
def test_names_from_a_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "names.txt").write_bytes(text.encode())
    assert read_classes(tmp_path / "names.txt") == tuple(NAMES)


def test_names_from_a_set(tmp_path: Path) -> None:
    fixture = Path(__file__).parents[2] / "fixtures" / "set-mirror"
    with pytest.raises(InputError, match="knows no class names"):
        read_classes(str(fixture))
    plan = (fixture / "plan.json").read_text()
    assert '"classes":null' in plan
    (tmp_path / "plan.json").write_text(plan.replace('"classes":null', '"classes":["cow","ant","bee"]'))
    assert read_classes(tmp_path) == tuple(NAMES)


def test_names_from_a_store() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/fmshards-classes/names.txt", b"cow\nant\nbee\n")
    plan = (Path(__file__).parents[2] / "fixtures" / "set-mirror" / "plan.json").read_bytes()
    memory.pipe("/fmshards-classes/set/plan.json", plan.replace(b'"classes":null', b'"classes":["cow","ant","bee"]'))
    try:
        assert read_classes("memory://fmshards-classes/names.txt") == tuple(NAMES)
        assert read_classes("memory://fmshards-classes/set") == tuple(NAMES)
    finally:
        memory.rm("/fmshards-classes", recursive=True)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "holds no class"),
        (["a", "b", "a"], "'a' is named twice"),
        (["a", 1], "class 1 is 1"),
        (["a", ""], "class 1 is ''"),
        ({"a": 0, "b": 1}, "classes is a dict; expected a list"),
        ({"a", "b"}, "classes is a set; expected a list"),
        (3, "classes is a int"),
        ("", "empty text"),
    ],
)
def test_what_is_no_list_of_names_is_refused(classes: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_classes(classes)


def test_files_that_name_no_classes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("cow\n\nbee\n")
    with pytest.raises(InputError, match=r"a\.txt: class 1 is ''"):
        read_classes(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(InputError, match=r"b\.txt: is no text in UTF-8"):
        read_classes(tmp_path / "b.txt")
    with pytest.raises(InputError, match="holds no shard set"):
        read_classes(tmp_path)


@pytest.mark.parametrize("label", [b"0", b"2\n"])
def test_labels_within_the_classes(tmp_path: Path, label: bytes) -> None:
    source = open_source(str(write_tar(tmp_path / "a.tar", {"x.png": png(0), "x.cls": label})), classes=NAMES)
    assert source.classes == tuple(NAMES)
    assert source.load(items(source)[0]).fields == {"cls": label}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x.png": b"", "x.cls": b"3"}, "cls is 3, and 3 classes are given; expected a whole number from 0 to 2"),
        ({"x.png": b"", "x.cls": b"-1"}, "cls is -1"),
        ({"x.png": b"", "x.cls": b"cow"}, "cannot be read as cls"),
        ({"x.png": b"", "x.txt": b"cow"}, "no field 'cls'; it has txt"),
    ],
)
def test_labels_beyond_the_classes(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    source = open_source(str(write_tar(tmp_path / "a.tar", members)), classes=NAMES)
    with pytest.raises(InputError, match=message):
        source.load(items(source)[0])


def test_a_data_set_numbers_its_classes_itself() -> None:
    class Named(list):
        classes = ("cow", "ant")

    image = Image.new("RGB", (4, 4))
    assert open_source(Named([(image, 1)])).classes == ("cow", "ant")
    assert open_source(Named([(image, 1)]), classes=NAMES).classes == tuple(NAMES)
    with pytest.raises(InputError, match="class 0 is 'cow' here, 'ant' there"):
        open_source(Named([(image, 1)]), classes=["ant", "cow"])
    source = open_source([(image, 1), (image, 3)], classes=NAMES)
    assert source.load(items(source)[0]).fields == {"cls": 1}
    with pytest.raises(InputError, match="cls is 3"):
        source.load(items(source)[1])


def test_class_difference() -> None:
    assert class_difference(["a", "b"], ["a", "b", "c"]) is None
    assert class_difference(None, ["a"]) is None
    assert "class 1 is 'c' here, 'b' there" in str(class_difference(["a", "c"], ["a", "b", "c"]))
