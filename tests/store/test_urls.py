"""Joining URLs, names that climb out, braces and globs."""

from __future__ import annotations

import os

import pytest

from fmshards import store
from fmshards.errors import InputError, StoreError


@pytest.mark.parametrize(
    ("url", "parts", "joined"),
    [
        ("set", ("layer2", "000000.tar"), "set/layer2/000000.tar"),
        ("set/", ("a",), "set/a"),
        ("/", ("a",), "/a"),
        (".", ("a",), "./a"),
        ("s3://bucket", ("a", "b"), "s3://bucket/a/b"),
        ("memory://", ("a",), "memory://a"),
        ("file:///x/", ("a",), "file:///x/a"),
        ("https://host/set?key=1", ("a", "b"), "https://host/set/a/b?key=1"),
        ("s3://bucket/what?", ("a",), "s3://bucket/what?/a"),
    ],
)
def test_join_and_parent(url, parts, joined):
    assert store.join(url, *parts) == joined
    if len(parts) == 1 and url not in ("set/", "file:///x/", "memory://"):
        assert store.parent(joined) == url


@pytest.mark.parametrize(
    ("url", "above"),
    [
        ("a", "."),
        ("/a", "/"),
        ("/", "/"),
        ("a/b/", "a"),
        ("s3://b", "s3://b"),
        ("s3://b/c", "s3://b"),
        ("memory://a", "memory://a"),
    ],
)
def test_parent(url, above):
    assert store.parent(url) == above


def test_local_or_not():
    assert all(map(store.is_local, ["x", "/x", "./x", "file:///x", "a:b", "C:\\x", "~/x"]))
    assert not any(map(store.is_local, ["s3://b/x", "https://h/x", "memory://x", "simplecache::s3://b", "pipe:cat"]))
    assert store.local_path("file:///a%20b") == "/a b"
    assert store.local_path("file://localhost/a") == "/a"
    with pytest.raises(StoreError, match="this machine"):
        store.local_path("file://elsewhere/a")


@pytest.mark.parametrize("url", ["a::b", "x::y/z", "run 3::final", "./simplecache::x", "/t/a::s3://b", "é::ü"])
def test_two_colons_in_a_path(url):
    assert store.is_local(url)


@pytest.mark.parametrize(
    "url", ["zip://a.csv::s3://b/x.zip", "simplecache::zip://a::file:///x", "filecache::memory://x"]
)
def test_a_chain_of_stores(url):
    assert not store.is_local(url)


@pytest.mark.parametrize("url", ["simplecache::data/set", "zip::x", "my run::s3://bucket/x", "::s3://b"])
def test_what_may_be_a_path_or_a_chain_is_refused(url):
    with pytest.raises(InputError, match=r"may be a path, or a chain of stores; write \./"):
        store.exists(url)


def test_a_path_with_two_colons_overwrites_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").write_bytes(b"another file")
    store.put("a::b", b"mine")
    assert (tmp_path / "a::b").read_bytes() == b"mine"
    assert (tmp_path / "b").read_bytes() == b"another file"


@pytest.mark.parametrize(
    "use",
    [
        lambda: store.join("", "plan.json"),
        lambda: store.exists(""),
        lambda: store.put("", b""),
        lambda: store.expand(""),
        lambda: store.expand(["a.tar", ""]),
    ],
)
def test_an_empty_path_is_refused(use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(InputError, match="an empty path"):
        use()
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_absolute_stays_right_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [store.absolute(url) for url in ("set", "a::b/c", "/x/../y", ".")]
    assert found == [f"{tmp_path}/set", f"{tmp_path}/a::b/c", "/y", str(tmp_path)]
    assert [store.absolute(url) for url in ("s3://b/x", "file:///x", "simplecache::s3://b")] == [
        "s3://b/x",
        "file:///x",
        "simplecache::s3://b",
    ]


def test_braces_and_globs(tmp_path):
    for name in ("a-000.tar", "a-001.tar", "b-000.tar", "odd{1}.tar", "st*r.tar"):
        (tmp_path / name).write_bytes(b"")
    t = str(tmp_path)
    assert store.expand(f"{t}/a-{{000..001}}.tar") == [f"{t}/a-000.tar", f"{t}/a-001.tar"]
    assert store.expand(f"{t}/*-000.tar") == [f"{t}/a-000.tar", f"{t}/b-000.tar"]
    assert store.expand(f"{t}/{{b,a}}-0*.tar") == [f"{t}/b-000.tar", f"{t}/a-000.tar", f"{t}/a-001.tar"]
    assert store.expand([f"{t}/b-000.tar", f"{t}/a-000.tar"]) == [f"{t}/b-000.tar", f"{t}/a-000.tar"]
    assert store.expand(f"{t}/odd{{1}}.tar") == [f"{t}/odd{{1}}.tar"]
    assert store.expand(f"{t}/st*r.tar") == [f"{t}/st*r.tar"]
    assert store.expand(t) == [t]
    assert store.expand(f"file://{t}/a-{{000..001}}.tar") == [f"file://{t}/a-000.tar", f"file://{t}/a-001.tar"]
    assert store.expand("s3://b/t-{8..11}.tar") == [
        "s3://b/t-8.tar",
        "s3://b/t-9.tar",
        "s3://b/t-10.tar",
        "s3://b/t-11.tar",
    ]


@pytest.mark.parametrize(
    "url", ["{t}/none.tar", "{t}/c-*.tar", "{t}/a-{{000..002}}.tar", "s3://b/*/x.tar", "s3://b/{{0..9999999}}"]
)
def test_what_matches_nothing_is_an_error(tmp_path, url):
    for name in ("a-000.tar", "a-001.tar"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError):
        store.expand(url.format(t=tmp_path))


def test_nothing_at_all_is_an_error():
    with pytest.raises(InputError, match="at least one URL"):
        store.expand([])


def test_unbalanced_braces_stay_as_they_are_or_are_refused(tmp_path):
    with pytest.raises(InputError):
        store.expand(os.path.join(tmp_path, "a-{000..001.tar"))
