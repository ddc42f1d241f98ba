"""All files below a folder, and globs of URLs."""

from __future__ import annotations

from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fmshards import store
from fmshards.errors import InputError, StoreError

FILES = {"a.tar": b"1", "b/c.png": b"22", "b/d/e f.png": b"333", "b.tar": b""}


@pytest.fixture
def filled(folder: str) -> str:
    for name, data in FILES.items():
        store.put(store.join(folder, name), data)
    return folder


def test_files_with_what_info_says_of_them(filled: str) -> None:
    for url in (filled, filled + "/"):
        found = store.list_files(url)
        assert {name: info.size for name, info in found.items()} == {name: len(data) for name, data in FILES.items()}
        for name, info in found.items():
            assert info.mark is not None
            if not url.startswith("memory:"):  # whose listings write the time otherwise
                assert info == store.info(store.join(filled, name))
        assert store.list_files(url) == found
    assert list(store.list_files(store.join(filled, "b", "d"))) == ["e f.png"]
    assert store.list_files(store.join(filled, "gone")) == {}


def test_a_glob_of_the_last_name(filled: str) -> None:
    for form, names in (("*.tar", ["a.tar", "b.tar"]), ("{b,a}*.tar", ["b.tar", "a.tar"])):
        found = store.expand(store.join(filled, form))
        assert [url.rpartition("/")[2] for url in found] == names
        assert [store.size(url) for url in found] == [len(FILES[name]) for name in names]
    with pytest.raises(InputError, match="nothing is there"):
        store.expand(store.join(filled, "x*.tar"))


def test_what_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(MemoryFileSystem, "ls", refuse)
    for call in (store.list_files, lambda url: store.expand(f"{url}*.tar")):
        with pytest.raises(StoreError, match=r"cannot list memory://bucket/set.*Access Denied"):
            call("memory://bucket/set/")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot list"):
        store.list_files(str(tmp_path / "file"))
