"""Joining URLs, names that climb out, braces and globs."""

from __future__ import annotations

import os

import pytest

from fmshards import store
from fmshards.errors import FormatError, InputError, StoreError


@pytest.mark.parametrize(
    ("url", "parts", "joined"),
    [
        ("set", ("layer2", "000000.tar"), "set/layer2/000000.tar"),
        ("set/", ("a",), "set/a"),
        ("/", ("a",), "/a"),
        ("", ("a",), "a"),
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
    if len(parts) == 1 and url not in ("set/", "file:///x/", "", "memory://"):
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
    assert all(map(store.is_local, ["x", "/x", "./x", "file:///x", "a:b", "C:\\x", "~/x", "x::y/z"[:1]]))
    assert not any(map(store.is_local, ["s3://b/x", "https://h/x", "memory://x", "simplecache::s3://b", "pipe:cat"]))
    assert store.local_path("file:///a%20b") == "/a b"
    assert store.local_path("file://localhost/a") == "/a"
    with pytest.raises(StoreError, match="this machine"):
        store.local_path("file://elsewhere/a")


@pytest.mark.parametrize(
    "name", ["000000.tar", "features.3", "add_5", "layer2", "calibration-0123456789abcdef.safetensors", "a b", "é"]
)
def test_plain_names_are_safe(name):
    assert store.safe_name(name, "shard") == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/../b", "/etc/passwd", "a/b", "a\\b", "..\\x", "C:x", "s3://x", ".hidden", "a\0b", "a\nb",
     "x" * 201, "%2e%2e", "a?b", "a#b", "*", "a*", "[a]", "{a,b}", None, 7, b"x", ["x"]],
)  # fmt: skip
def test_names_that_climb_out_are_refused(name):
    with pytest.raises(FormatError, match="shard 3: expected"):
        store.safe_name(name, "shard 3")


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
    "url", ["{t}/none.tar", "{t}/c-*.tar", "{t}/a-{{000..002}}.tar", "s3://b/*.tar", "s3://b/{{0..9999999}}"]
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
