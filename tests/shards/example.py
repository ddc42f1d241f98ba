"""The worked example of FORMAT.md, made anew: `python -m tests.shards.example` writes it into the file.

A set of one layer, `out`: features of 4 channels of 4 x 4 values, ZFP at 8 bits a value, one shard of two samples.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fmshards.codec import FeatureSpec, codec_for
from fmshards.shards import InputShard, Similarity
from fmshards.shards.envelope import unseal
from tests.sets import layer_plan, plan_of, write_set

FORMAT = Path(__file__).parents[2] / "FORMAT.md"
BEGIN, END = "<!-- example: begin -->\n", "<!-- example: end -->\n"
SPEC = FeatureSpec("map", (4, 4, 4))


def example_features() -> np.ndarray:
    """float32 [2, 4, 4, 4]: (3c + 5y + 7x) mod 8, and zeros."""
    c, y, x = np.meshgrid(*(np.arange(4),) * 3, indexing="ij")
    return np.stack([(3 * c + 5 * y + 7 * x) % 8, np.zeros_like(c)]).astype(np.float32)


def write_example(folder: Path) -> None:
    codec = codec_for(8, SPEC)
    similarity = Similarity((1.0, 1.0, 0.5, 1.0), (0.0, 0.0, 0.75, 0.0))
    plan = plan_of(
        [layer_plan("out", SPEC, 8, similarity=similarity, flops=1000)],
        [2],
        identity={"layers": {"out": {"cut": "out", "prefix": "0" * 64}}},
        options={"batch": 2},
        inputs=(InputShard("000000", "in.tar", 10240, 2, None),),
        base_size=(8, 8),
        classes=("cat", "dog"),
    )
    x = example_features()
    rows = codec.encode(x)
    error = (codec.decode(rows).numpy() - x).astype(np.float64)
    sums = {"error": (error**2).sum((0, 2, 3)), "energy": (x.astype(np.float64) ** 2).sum((0, 2, 3))}
    chunk = {
        "keys": ["a", "b"],
        "fields": {"cls": [b"0", b"1"]},
        "theta": None,
        "members": {"base.zfp": codec.member(rows)},
    }
    write_set(str(folder), plan, lambda *_: chunk, lambda _: {"samples": 2, **sums})


def render(folder: Path) -> str:
    """The example as FORMAT.md shows it."""
    data = (folder / "out" / "000000.tar").read_bytes()
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (entry,) = manifest["layers"]["out"]["shards"]
    offset, length = entry["index_offset"], entry["index_length"]
    index = unseal(data[offset : offset + length], "example")
    parts = [
        ("`out/000000.tar`, the header of its first member, bytes 0 to 512, zeros left out", _dump(data, 0, 512)),
    ]
    for member, (at, size, _) in zip(index["members"], index["chunks"][0][1], strict=True):
        name = "000000.meta.msgpack" if member == "meta" else f"000000.{member}"
        parts.append((f"`{name}`, bytes {at} to {at + size}", _dump(data, at, at + size)))
        if member == "meta":
            parts.append(("which unpacks to", _shown(unseal(data[at : at + size], "example"))))
        else:
            parts.append(("two rows of 64 bytes, which decode to", _decoded(data[at : at + size])))
    parts.append(
        (f"`__fmshards__/index.msgpack`, bytes {offset} to {offset + length}", _dump(data, offset, offset + length))
    )
    parts.append(("which unpacks to", _shown(index)))
    parts.append((f"then zeros up to byte {len(data)}, the end. `plan.json`", _text(folder / "plan.json")))
    parts.append(("`manifest.json`", _text(folder / "manifest.json")))
    return "\n".join(f"{title}:\n\n```\n{body}\n```\n" for title, body in parts)


def _dump(data: bytes, start: int, end: int) -> str:
    lines = []
    for at in range(start, end, 16):
        part = data[at : min(at + 16, end)]
        if any(part):
            text = "".join(chr(b) if 32 <= b < 127 else "." for b in part)
            lines.append(f"{at:6d}  {part.hex(' '):<47}  {text}")
    return "\n".join(lines)


def _shown(value: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {inner!r}" for name, inner in value.items())


def _decoded(member: bytes) -> str:
    codec = codec_for(8, SPEC)
    x = codec.decode(codec.rows(member, 2)).numpy()
    lines = [
        f"sample {i}, channel {c}, row {y}: {x[i, c, y].tolist()}" for i, c, y in ((0, 0, 0), (0, 3, 3), (1, 0, 0))
    ]
    return "\n".join(lines)


def _text(path: Path) -> str:
    text = path.read_text()
    assert text.endswith("\n")
    return text[:-1]


def rendered() -> str:
    with tempfile.TemporaryDirectory() as folder:
        write_example(Path(folder))
        return render(Path(folder))


def main() -> None:
    before, _, rest = FORMAT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    FORMAT.write_text(before + BEGIN + rendered() + END + after)


if __name__ == "__main__":
    main()
