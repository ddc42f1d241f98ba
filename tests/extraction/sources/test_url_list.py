"""Lists of URLs: forms, labels, shards, relative paths, pins, and what is refused by list, line and URL."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from fmshards.clock import Clock
from fmshards.errors import FmshardsError, InputError
from fmshards.extraction import extract, verify
from fmshards.extraction.batches import decoded_batches
from fmshards.extraction.decode import Decoder
from fmshards.extraction.sources import ListSource, open_source
from fmshards.model import parse_preprocess
from tests.servers import BUCKET, S3
from tests.servers.fixtures import s3  # noqa: F401  # a fixture
from tests.store.conftest import WebServer, web  # noqa: F401  # a fixture

from ..conftest import TRAIN, members_of, options, png, stored, tree, write_tar
from .helpers import items, make_folder

NAMES = [f"photos/{i}.png" for i in range(5)]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_folder(tmp_path, NAMES)


def listed(folder: Path, text: str, name: str = "list.csv") -> str:
    (folder / name).write_bytes(text.encode())
    return str(folder / name)


def everything(source: Any) -> list[tuple[str, dict[str, Any], bytes]]:
    source = pickle.loads(pickle.dumps(source)) if source._list is None else source
    samples = [source.load(item) for shard in range(len(source.inputs)) for item in items(source, shard)]
    return [(sample.key, sample.fields, sample.image.tobytes()) for sample in samples]


def forms(folder: Path) -> dict[str, str]:
    """The same images with the same labels, in each form that has labels."""
    rows = [(name, i % 2, f'a "{i}", b') for i, name in enumerate(NAMES)]
    quoted = [(name, label, '"{}"'.format(text.replace('"', '""'))) for name, label, text in rows]
    return {
        "csv": listed(folder, "url,label,text\n" + "".join(f"{a},{b},{c}\n" for a, b, c in quoted)),
        "crlf": listed(
            folder, "\ufeffurl,label,text\r\n" + "\r\n".join(f"{a}, {b}, {c}" for a, b, c in quoted), "b.csv"
        ),
        "tsv": listed(folder, "url\tcls\ttext\n" + "\n".join(f"{a}\t{b}\t{c}" for a, b, c in quoted), "list.tsv"),
        "jsonl": listed(
            folder,
            "".join(json.dumps({"url": a, "label": b, "text": c}) + "\n\n" for a, b, c in rows),
            "list.jsonl",
        ),
    }


def test_forms_of_a_list_give_the_same_samples(photos: Path) -> None:
    for path in forms(photos).values():
        source = open_source(path)
        assert isinstance(source, ListSource)
        assert everything(source) == [
            (f"{i:08d}", {"url": name, "cls": i % 2, "text": f'a "{i}", b'}, image)
            for i, (name, (_, _, image)) in enumerate(zip(NAMES, everything(source), strict=True))
        ]
        assert source.classes is None
    lines = open_source(listed(photos, "\n".join([NAMES[0], "", *NAMES[1:]]), "list.txt"))
    assert [(key, fields) for key, fields, _ in everything(lines)] == [
        (f"{i:08d}", {"url": name}) for i, name in enumerate(NAMES)
    ]
    assert [image for _, _, image in everything(lines)] == [image for _, _, image in everything(source)]


@pytest.mark.parametrize("size", [1, 2, 4, 5, 9])
def test_shards_are_so_many_rows(photos: Path, size: int) -> None:
    for path in forms(photos).values():
        source = open_source(path, shard_size=size)
        assert [shard.samples for shard in source.inputs] == [min(size, 5 - i) for i in range(0, 5, size)]
        assert everything(source) == everything(open_source(path))


def test_a_row_may_have_lines(photos: Path) -> None:
    text = "url,text\n" + "".join(f'{name},"one\ntwo {i}"\n' for i, name in enumerate(NAMES)) + "photos/9.png,x,y\n"
    with pytest.raises(InputError, match=r"list\.csv, line 12: expected 2 cells"):
        open_source(listed(photos, text))
    source = open_source(listed(photos, text.rpartition("photos")[0]), shard_size=2)
    assert [fields["text"] for _, fields, _ in everything(source)] == [f"one\ntwo {i}" for i in range(5)]


def test_workers_need_no_list(photos: Path) -> None:
    source = open_source(forms(photos)["csv"])
    found = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 3000
    assert found.load(items(source)[2]).key == "00000002"


# labels


def test_labels_that_are_names_are_classes(photos: Path) -> None:
    text = "url,label\n" + "".join(f"{name},{label}\n" for name, label in zip(NAMES, "bacab", strict=True))
    source = open_source(listed(photos, text))
    assert source.classes == ("a", "b", "c")
    assert [(fields["cls"], fields["class"]) for _, fields, _ in everything(source)] == [
        (1, "b"), (0, "a"), (2, "c"), (0, "a"), (1, "b")
    ]  # fmt: skip
    given = open_source(listed(photos, text), classes=["x", "c", "b", "a"])
    assert [fields["cls"] for _, fields, _ in everything(given)] == [2, 3, 1, 3, 2]
    with pytest.raises(InputError, match=r"list\.csv, line 4: the label 'c' is not among the 2 classes"):
        open_source(listed(photos, text), classes=["a", "b"])


def test_digits_and_letters_are_names(photos: Path) -> None:
    text = "url,label\n" + "".join(f"{name},{label}\n" for name, label in zip(NAMES, "10ab1", strict=True))
    assert open_source(listed(photos, text)).classes == ("0", "1", "a", "b")


@pytest.mark.parametrize(("text", "found"), [("0.5", 0.5), ("-1", -1.0), ("1e3", 1000.0)])
def test_labels_that_are_numbers(photos: Path, text: str, found: float) -> None:
    rows = "".join(f"{name},{label}\n" for name, label in zip(NAMES, ["7.5", text, "2", "3", "4"], strict=True))
    assert everything(open_source(listed(photos, "url,cls\n" + rows)))[1][1]["cls"] == found


def test_numbers_are_held_against_classes(photos: Path) -> None:
    source = open_source(forms(photos)["csv"], classes=["only"])
    with pytest.raises(InputError, match="cls is 1, and 1 classes are given"):
        everything(source)


def test_keys_of_ones_own(photos: Path) -> None:
    text = "__key__,url\n" + "".join(f"k{i},{name}\n" for i, name in enumerate(NAMES))
    assert [key for key, _, _ in everything(open_source(listed(photos, text)))] == [f"k{i}" for i in range(5)]
    with pytest.raises(InputError, match=r"list\.csv, line 6: the key 'k1' comes twice"):
        everything(open_source(listed(photos, text.replace("k4", "k1"))))


# what is refused


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("list.csv", "", r"list\.csv is empty; expected a header"),
        ("list.csv", "url,label\n", r"list\.csv lists nothing"),
        ("list.txt", "\n\n", r"list\.txt lists nothing"),
        ("list.csv", "url,url\na,b\n", "line 1: expected a header of column names, each once"),
        ("list.csv", "photo,label\nphotos/0.png,1\n", r"line 2: expected a column 'url' .*found photo, label; name it"),
        ("list.csv", "url,label\n,1\n", "line 2: url is ''; expected a URL or a path"),
        ("list.csv", "url,label\nphotos/0.png,\n", "line 2: the label is empty"),
        ("list.csv", 'url,label\n"photos/0.png,1\n', "line 2: it cannot be read as csv"),
        ("list.jsonl", '{"url": "photos/0.png"}\n{"url": 7}\n', "line 2: url is 7"),
        ("list.jsonl", '{"url": "photos/0.png"}\n["photos/1.png"]\n', "line 2: expected an object"),
        ("list.jsonl", '{"url": "photos/0.png"}\n{"url": \n', "line 2: it is no JSON"),
        ("list.jsonl", '{"url": "photos/0.png", "a": 1}\n{"url": "photos/1.png"}\n', "line 2: it lacks 'a', unlike"),
        (
            "list.jsonl",
            '{"url": "photos/0.png", "cls": 1}\n{"url": "photos/1.png", "cls": "x"}\n',
            "line 2: the cls is",
        ),
        ("list.txt", "photos/0.png\n\nphotos/gone.png\n", r"list\.txt, line 3: .*photos/gone\.png does not exist"),
        ("list.txt", "photos/0.png\nzip::a\n", "line 2: zip::a: may be a path, or a chain"),
    ],
)
def test_a_row_that_can_be_no_item_is_named(photos: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        everything(open_source(listed(photos, text, name)))
    assert "\n" not in str(caught.value)


def test_text_that_is_no_utf8_is_named(photos: Path) -> None:
    (photos / "list.txt").write_bytes(b"photos/0.png\ncaf\xe9.png\n")
    with pytest.raises(InputError, match=r"list\.txt, line 2: it is not UTF-8"):
        open_source(photos / "list.txt")


def test_options_that_have_no_meaning(photos: Path) -> None:
    with pytest.raises(InputError, match="no meaning for a list of lines"):
        open_source(listed(photos, NAMES[0], "list.txt"), image_field="url")
    with pytest.raises(InputError, match="a list of URLs is given alone"):
        open_source([listed(photos, NAMES[0], "a.txt"), listed(photos, NAMES[0], "b.txt")])
    column = open_source(listed(photos, f"photo,n\n{NAMES[3]},1\n"), image_field="photo")
    assert everything(column)[0][1] == {"photo": NAMES[3], "n": "1"}


def test_an_image_that_cannot_be_decoded_is_named(photos: Path) -> None:
    (photos / NAMES[3]).write_bytes(b"no image")
    source = open_source(forms(photos)["csv"])
    with pytest.raises(InputError, match=r"line 5: .*photos/3\.png: the image \(8 bytes\) cannot be decoded"):
        everything(source)


# from stores


def test_lists_and_images_at_urls(photos: Path, web: WebServer, s3: S3) -> None:  # noqa: F811  # a fixture, imported above
    wanted = [image for _, _, image in everything(open_source(listed(photos, "\n".join(NAMES), "list.txt")))]
    for root in (web.root, s3.root / BUCKET):
        make_folder(root, NAMES)
    listed(s3.root / BUCKET, "\n".join(NAMES), "list.txt")
    listed(web.root, "\n".join(NAMES), "list.txt")
    mixed = [f"{web.url}/{NAMES[0]}", f"s3://{BUCKET}/{NAMES[1]}", str(photos / NAMES[2]), *NAMES[3:]]
    for url in (
        f"s3://{BUCKET}/list.txt",
        f"{web.url}/list.txt?token=1",
        listed(photos, "\n".join(mixed), "mixed.txt"),
    ):
        source = open_source(url)
        assert [image for _, _, image in everything(source)] == wanted
        assert source.content(0) is not None
    gone = open_source(listed(photos, f"{web.url}/gone.png", "gone.txt"))
    with pytest.raises(InputError, match=r"line 1: cannot read http.*/gone\.png: it does not exist"):
        everything(gone)


# pins


def read_to_end(source: Any, workers: int) -> list[str | None]:
    decode = Decoder(source, parse_preprocess("none"))
    shards = iter(range(len(source.inputs)))
    batches = decoded_batches(source, shards, 2, decode, workers, False, Clock())
    return [source.digest_read(batch.shard) for batch in batches if batch.last]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_digest_is_of_rows_and_images(photos: Path, workers: int) -> None:
    path = forms(photos)["csv"]
    source = open_source(path, shard_size=3)
    contents = [source.content(i) for i in range(2)]
    assert read_to_end(source, workers) == read_to_end(source, workers) == contents
    assert len(set(contents)) == 2
    stamps = [source.stamp(i) for i in range(2)]
    data = (photos / NAMES[4]).read_bytes()
    (photos / NAMES[4]).write_bytes(png(77))
    changed = open_source(path, shard_size=3)
    assert [changed.stamp(i) == stamps[i] for i in range(2)] == [True, False]
    assert [changed.content(i) == contents[i] for i in range(2)] == [True, False]
    (photos / NAMES[4]).write_bytes(data)
    Path(path).write_text(Path(path).read_text().replace(f"{NAMES[1]},1", f"{NAMES[1]},0"))
    labelled = open_source(path, shard_size=3)
    assert [labelled.content(i) == contents[i] for i in range(2)] == [False, True]
    assert [labelled.inputs[i] == source.inputs[i] for i in range(2)] == [False, True]


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """40 bundled images as files, a list of them, and a tar of them."""
    members = members_of(TRAIN[0], range(40))
    rows = ["url,label"]
    for (name, data), (_, label) in zip(members[::2], members[1::2], strict=True):
        (tmp_path / name).write_bytes(data)
        rows.append(f"{name},{int(label)}")
    listed(tmp_path, "\n".join(rows))
    write_tar(tmp_path / "in.tar", members)
    return tmp_path


def test_the_same_images_give_the_same_features(real: Path) -> None:
    extract(real / "in.tar", real / "tar", **options())
    for workers in (0, 2):
        extract(real / "list.csv", real / str(workers), workers=workers, **options())
    tars, lists = (stored(real / name, "layer2") for name in ("tar", "2"))
    assert (tars.streams["base"] == lists.streams["base"]).all()
    assert list(map(int, tars.fields["cls"])) == lists.fields["cls"]
    assert tree(real / "0" / "layer2") == tree(real / "2" / "layer2")
    report = verify(str(real / "0"), options()["model"], weights=options()["weights"])
    assert (report.problems, report.recomputed) == ((), 8)


def test_what_changed_since_the_plan_is_refused(real: Path) -> None:
    out, more, path = real / "set", options(shard_size=20), real / "list.csv"
    extract(path, out, **more)
    before, rows = tree(out), path.read_text()
    image = real / rows.split("\n")[25].partition(",")[0]
    os.utime(image)
    assert extract(path, out, **more).samples == 40
    data = image.read_bytes()
    image.write_bytes((real / rows.split("\n")[1].partition(",")[0]).read_bytes())
    with pytest.raises(FmshardsError, match=r"inputs 000001: .*list\.csv is not what .*000001\.tar was made from"):
        extract(path, out, **more)
    image.write_bytes(data)
    first = rows.split("\n")[1]
    path.write_text(rows.replace(first, f"{first.partition(',')[0]},9{first.partition(',')[2]}"))
    with pytest.raises(FmshardsError, match=r"inputs 000000: .*list\.csv is not what"):
        extract(path, out, **more)
    assert tree(out) == before
