import math, numpy as np  # noqa: E401, I001  # beside reader40.py: the codec whose rows are no arrays of numbers

SKIPS, SCAN = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64), (0, 1, 4, 8, 5, 2, 3, 6, 9, 12, 13, 10, 7, 11, 14, 15)
EXTRA = [0] * 5 + [1 + i // 2 for i in range(26)]
BASE = [0, *np.cumsum([1, *(2**e for e in EXTRA[1:-1])]).tolist()]


def levels(data, blocks, codes, plain):  # "dct", events: block, place, class, more and sign of a segment's levels
    bits, at, state, block, f = np.unpackbits(data, bitorder="little").tolist() + [0] * 64, 0, 0, 0, 0
    end, take = len(bits) - 64, lambda k: sum(bits[at + i] << i for i in range(k))
    while block < blocks and at < end:
        length, number, a = 0, 0, int(state > 2 and state % 2 == 0)
        while length == 0 or number >= len(codes[state][length - 1]):  # canonical: the codes of each length follow
            number = 2 * (number - (len(codes[state][length - 1]) if length else 0)) + bits[at]
            length, at = length + 1, at + 1
        event = codes[state][length - 1][number]
        if 1 <= event <= 12:
            block, state = block + SKIPS[event - 1], 0
            continue
        (run, kind), last = divmod((event - 16) // 2, 30), event % 2
        if event == 0:
            run, last, kind, at = take(4), take(5) >> 4, min(max(take(10) >> 5, 1), 30) - 1, at + 10
        f = min(f + run, 15)
        more, at = take(EXTRA[kind + 1]), at + EXTRA[kind + 1]
        yield block, f, kind + 1, more, take(int(f >= plain))
        at, a = at + int(f >= plain), int(a or kind >= 2)
        block, state, f = (block + 1, 1 + a, 0) if last or f == 15 else (block, 3 + 2 * f + a, f + 1)


def features(codec, rows):  # uint8 [n, row_bytes] -> float32 [n, values]: "dct", blocks and rows
    spec, shape, f4 = codec["spec"], codec["spec"]["shape"], np.float32
    last, c = spec["kind"] != "map", shape[0] if spec["kind"] == "map" else shape[-1]
    h, w = {"map": shape[1:], "map_last": shape[:2]}.get(spec["kind"]) or spec["grid"] or (0, 0)
    cut = {n: [4] * (-(-n // 4) - -n % 4) + [3] * (-n % 4) if n != 5 else [3, 2] for n in (h, w)}
    grid = [(ch, y, x, q, r) for ch in range(c) for y, q in starts(cut[h]) for x, r in starts(cut[w])]
    grid, runs = (grid, spec["class_tokens"] * c) if min(h, w) >= 3 else ([], math.prod(shape))
    blocks, signed = len(grid) + -(-runs // 16), any(codec["offsets"]) or not codec["nonnegative"]
    out, segments = np.zeros((len(rows), math.prod(shape)), f4), -(-blocks // 512)
    transformed = codec.get("transformed", bool(grid))
    plain = 0 if signed else 1 if transformed else 16
    for row, sample in zip(rows, out, strict=True):
        words, found, begin = row[: 2 + 2 * segments].view("<u2").tolist(), np.zeros((blocks, 16), f4), 2 + 2 * segments
        octave, part = divmod(min(words[0], 6688), 32)
        step = f4(2 ** (part / 32)) * f4(2.0 ** (octave - 126))
        for s, size in enumerate(words[1:]):
            for block, f, kind, more, sign in levels(
                row[begin:][:size], min(512, blocks - 512 * s), codec["codes"], plain
            ):
                shift = f4(codec["shifts"][f][min(BASE[kind], 3) - 1])
                found[512 * s + block, f] = (f4(BASE[kind]) - shift + f4(more)) * (-1 if sign else 1)
            begin += size
        offsets = np.array(codec["offsets"], f4)
        own = offsets[c:] if grid else np.tile(offsets, runs // c) if last else np.repeat(offsets, runs // c)
        sample[:runs] = found[len(grid) :].reshape(-1)[:runs] * step + own
        if not grid:
            continue
        cells = sample[runs:].reshape(h, w, c).transpose(2, 0, 1) if last else sample[runs:].reshape(c, h, w)
        for (ch, y, x, q, r), block in zip(grid, found, strict=False):
            some = block[: 1 if transformed else 16]
            some[some == 0] = codec["means"][ch]
            back = np.zeros(16, f4)
            back[list(SCAN)] = block
            back = back.reshape(4, 4)
            if transformed:
                back = back_along(q, back_along(r, back.T).T)  # across, then down
            cells[ch, y : y + q, x : x + r] = back[:q, :r] * (f4(codec["gains"][ch]) * step) + offsets[ch]
    return np.where(out < 0, f4(0), out) if codec["nonnegative"] else out


def starts(sides):
    return list(zip(np.cumsum([0, *sides]).tolist(), sides, strict=False))


def back_along(n, x):  # the inverse DCT of size n along the first axis, summed as 0 + 2 and 1 + 3
    cos = [
        [math.cos(math.pi * (2 * i + 1) * k / (2 * n)) * math.sqrt((1 + (k > 0)) / n) for k in range(n)]
        for i in range(n)
    ]
    m = np.pad(np.where(np.abs(cos) < 1e-9, 0, cos).astype("f4"), (0, 4 - n))
    return (m[:, :1] * x[0] + m[:, 2:3] * x[2]) + (m[:, 1:2] * x[1] + m[:, 3:] * x[3])
