"""What differs between a plan here and the plan of a set, in lines for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fmshards.shards.plan import Plan
from fmshards.units import short_digests

_SECTIONS = ("identity", "options")
_IGNORED = ("provenance", "format", "version")
_NOTHING = object()


def plan_differences(ours: Plan | Mapping[str, Any], stored: Plan) -> list[str]:
    """Lines such as "batch: 64 here, 128 in plan.json", one a difference; [] where `ours` agrees.

    `ours` is a plan or the part of its JSON that is known ({"identity": ..., "options": ..., "inputs": ...});
    only what it has is compared, provenance never.
    """
    here = ours.to_json() if isinstance(ours, Plan) else dict(ours)
    there = stored.to_json()
    lines: list[str] = []
    for section, value in here.items():
        if section not in _IGNORED:
            name = "" if section in _SECTIONS else section
            _compare(name, _plain(value), _plain(there.get(section, _NOTHING)), lines)
    return lines


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return _plain(value.to_json())
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _compare(name: str, here: Any, there: Any, lines: list[str]) -> None:
    if isinstance(here, dict) and isinstance(there, dict):
        for key in dict.fromkeys([*here, *there]):
            inner = f"{name}.{key}" if name else str(key)
            _compare(inner, here.get(key, _NOTHING), there.get(key, _NOTHING), lines)
    elif isinstance(here, list) and isinstance(there, list) and _named(here) and _named(there):
        mine, theirs = {v["name"]: v for v in here}, {v["name"]: v for v in there}
        if list(mine) != list(theirs) and set(mine) == set(theirs):
            lines.append(f"{name}: the same ones in another order")
        for key in dict.fromkeys([*mine, *theirs]):
            _compare(f"{name} {key}", mine.get(key, _NOTHING), theirs.get(key, _NOTHING), lines)
    elif here != there or isinstance(here, bool) != isinstance(there, bool):
        lines.append(f"{name}: {_show(here)} here, {_show(there)} in plan.json")


def _named(items: list[Any]) -> bool:
    return bool(items) and all(isinstance(v, dict) and isinstance(v.get("name"), str) for v in items)


def _show(value: Any) -> str:
    if value is _NOTHING:
        return "nothing"
    if isinstance(value, dict) and "name" in value:
        value = value["name"]
    text = short_digests(value if isinstance(value, str) else repr(value))
    return text if len(text) <= 80 else text[:60] + "..." + text[-12:]
