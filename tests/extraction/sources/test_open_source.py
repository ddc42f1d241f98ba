"""Which source is meant by what people write."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from PIL import Image

from fmshards.errors import InputError
from fmshards.extraction.sources import DatasetSource, FolderSource, WebDatasetSource, open_source

from ..conftest import jpeg, write_tar
from .helpers import items, make_folder


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
    source = open_source(make_folder(tmp_path, ["a/x.png"]))
    assert pickle.loads(pickle.dumps(source)).load(items(source)[0]).image.size == (6, 6)


def test_paths_in_a_list_are_tars(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{i}.tar", {"x.jpg": jpeg(i)}) for i in range(2)]
    for given in (paths, tuple(paths), [str(paths[0]), paths[1]]):
        assert [shard.url for shard in open_source(given).inputs] == [str(path) for path in paths]
    with pytest.raises(InputError, match="make a list of it"):
        open_source(tmp_path.glob("*.tar"))


@pytest.mark.parametrize("names", [["daisy/x.png", "rose/x.png"], ["deep/er/x.png"], ["preview.png"]])
def test_images_beside_an_archive_are_not_dropped(tmp_path: Path, names: list[str]) -> None:
    make_folder(tmp_path, names)
    write_tar(tmp_path / "flowers.tar", {"x.jpg": jpeg(0)})
    with pytest.raises(InputError, match=r"holds tars \('flowers\.tar' \.\.\.\) and images"):
        open_source(tmp_path)
    assert isinstance(open_source(str(tmp_path / "*.tar")), WebDatasetSource)
    (tmp_path / "flowers.tar").rename(tmp_path.parent / "flowers.tar")
    assert isinstance(open_source(tmp_path), FolderSource)


def test_a_folder_of_packed_tars(tmp_path: Path) -> None:
    for name in ("b.tar.gz", "a.tgz"):
        write_tar(tmp_path / name, {"x.jpg": jpeg(0)})
    assert [Path(shard.url).name for shard in open_source(tmp_path).inputs] == ["a.tgz", "b.tar.gz"]
    write_tar(tmp_path / "c.tar", {"x.jpg": jpeg(0)})
    with pytest.warns(UserWarning, match=r"2 tars packed with gzip lie beside plain ones, such as 'a\.tgz'"):
        assert [Path(shard.url).name for shard in open_source(tmp_path).inputs] == ["c.tar"]


@pytest.mark.parametrize("source", ["", "caf\udce9/*.tar"])
def test_texts_that_name_nothing(source: str) -> None:
    with pytest.raises(InputError, match=r"empty text|not UTF-8"):
        open_source(source)
