"""The one little language of options: `name(1, key=2, size=(3, 4), word)+name`.

Preprocessing, recipes and mirror ways are written in it. It is a subset of Python's expression syntax, read
with `ast` and never evaluated.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from fmshards.errors import InputError


@dataclass(frozen=True)
class Term:
    """One `name(args, key=value)`; values are numbers, words (`str`), booleans or tuples of these."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [_show(a) for a in self.args] + [f"{k}={_show(v)}" for k, v in self.kwargs.items()]
        return f"{self.name}({', '.join(parts)})" if parts else self.name


def parse_terms(text: str, what: str) -> list[Term]:
    """Read `text` into terms. Raises InputError, naming `what` and the offending part."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise InputError(
            f"{what} {text!r} cannot be read: {error.msg} at column {error.offset}; "
            "expected terms such as name(1, key=2) joined by '+'"
        ) from None
    except (ValueError, MemoryError, RecursionError) as error:
        raise InputError(f"{what} cannot be read: {error}") from None
    terms: list[Term] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            stack += [node.right, node.left]
        else:
            terms.append(_term(node, what, text))
    return terms


def _term(node: ast.expr, what: str, text: str) -> Term:
    if isinstance(node, ast.Name):
        return Term(node.id)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise InputError(f"{what} {text!r}: expected name(...), found {ast.unparse(node)!r}")
    kwargs = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise InputError(f"{what} {text!r}: '**' is not allowed")
        kwargs[keyword.arg] = _value(keyword.value, what, text)
    return Term(node.func.id, tuple(_value(a, what, text) for a in node.args), kwargs)


def _value(node: ast.expr, what: str, text: str) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str, bool)):
        return node.value
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, (ast.Tuple, ast.List)):
        return tuple(_value(e, what, text) for e in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, what, text)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return -value
    raise InputError(f"{what} {text!r}: expected a number, a word or a tuple, found {ast.unparse(node)!r}")


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(_show(v) for v in value) + ("," if len(value) == 1 else "") + ")"
    return str(value)
