from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmshards.errors import InputError
from fmshards.terms import Term, parse_terms

names = st.sampled_from(["flip", "crop", "resize", "normalize"])
plain = st.one_of(
    st.integers(-999, 999),
    st.floats(-10, 10, allow_nan=False).map(lambda x: round(x, 4)),
    st.sampled_from(["imagenet", "bicubic"]),
)
values = st.one_of(plain, st.lists(plain, min_size=1, max_size=3).map(tuple))
terms = st.builds(
    Term, names, st.lists(values, max_size=2).map(tuple), st.dictionaries(st.sampled_from(["pad", "p"]), values)
)


@given(st.lists(terms, min_size=1, max_size=4))
def test_text_round_trip(given_terms: list[Term]) -> None:
    assert parse_terms("+".join(map(str, given_terms)), "recipe") == given_terms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "flip+",
        "flip(",
        "1",
        "flip-crop",
        "crop(pad=x.y)",
        "crop(**a)",
        "a.b()",
        "f(g())",
        "__import__('os')()",
        "f(lambda: 0)",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="recipe"):
        parse_terms(text, "recipe")


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_terms(text, "recipe")
    except InputError:
        pass
