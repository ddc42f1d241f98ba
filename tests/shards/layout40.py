import math, numpy as np  # noqa: E401, I001  # beside reader40.py: the one long rule of the format


def places(spec, order):  # "Layout": where in the row's blocks each value of a sample lies; values in the blocks
    v, k = np.arange(math.prod(spec["shape"])).reshape(spec["shape"]), spec["class_tokens"]
    v = (v.transpose(1, 2, 0) if spec["kind"] == "map" else v)[..., order or slice(None)]  # channels last, as stored
    run, cube = (v, v[:0]) if spec["kind"] == "vector" else (v[:k], v[k:])
    (h, w), c = spec["grid"] or (cube.shape[:2] if v.ndim == 3 else (1, len(cube))), v.shape[-1]
    blocks = lambda a, b: (-(-c // (4 * a * b)), -(-a * h // 4), -(-b * w // 4))  # noqa: E731  # to stay within 40 lines
    ways = ((a, b) for a in (1, 4 // math.gcd(h, 4)) for b in (1, 4 // math.gcd(w, 4)))
    ty, tx = min(ways, key=lambda t: (math.prod(blocks(*t)), t[0] * t[1], t[0]))
    z, y, x = blocks(ty, tx)
    full = np.pad(cube.reshape(h, w, c), [(0, 0), (0, 0), (0, z * 4 * ty * tx - c)], constant_values=-1)
    tiled = full.reshape(h, w, z * 4, ty, tx).transpose(2, 3, 0, 4, 1).reshape(z * 4, ty * h, tx * w)
    tiled = np.pad(tiled, [(0, 0), (0, y * 4 - ty * h), (0, x * 4 - tx * w)], constant_values=-1)
    flat = tiled.reshape(z, 4, y, 4, x, 4).transpose(0, 2, 4, 1, 3, 5).ravel()
    flat = np.concatenate([flat, run.ravel(), np.full(-run.size % 64, -1)])
    return np.argsort(flat, kind="stable")[-v.size :], flat.size
