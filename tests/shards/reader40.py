import json, math, pathlib, struct, zlib, msgpack, numpy as np, zfpy  # noqa: E401, I001  # 40 lines are the point


def unseal(data):  # "Envelope"
    assert (data[0], data[-5], struct.unpack(">I", data[-4:])) == (0x92, 0xCE, (zlib.crc32(data[:-5]),))
    return msgpack.unpackb(data[1:-5])


def places(spec, order):  # "Layout": where in the row's blocks each value of a sample lies; values in the blocks
    v, k = np.arange(math.prod(spec["shape"])).reshape(spec["shape"]), spec["class_tokens"]
    v = (v.transpose(1, 2, 0) if spec["kind"] == "map" else v)[..., order or slice(None)]  # channels last, as stored
    run, cube = (v, v[:0]) if spec["kind"] == "vector" else (v[:k], v[k:])
    (h, w), c = spec["grid"] or (cube.shape[:2] if v.ndim == 3 else (1, len(cube))), v.shape[-1]
    blocks = lambda a, b: (-(-c // (4 * a * b)), -(-a * h // 4), -(-b * w // 4))  # noqa: E731
    ways = ((a, b) for a in (1, 4 // math.gcd(h, 4)) for b in (1, 4 // math.gcd(w, 4)))
    ty, tx = min(ways, key=lambda t: (math.prod(blocks(*t)), t[0] * t[1], t[0]))
    z, y, x = blocks(ty, tx)
    full = np.pad(cube.reshape(h, w, c), [(0, 0), (0, 0), (0, z * 4 * ty * tx - c)], constant_values=-1)
    tiled = full.reshape(h, w, z * 4, ty, tx).transpose(2, 3, 0, 4, 1).reshape(z * 4, ty * h, tx * w)
    tiled = np.pad(tiled, [(0, 0), (0, y * 4 - ty * h), (0, x * 4 - tx * w)], constant_values=-1)
    flat = tiled.reshape(z, 4, y, 4, x, 4).transpose(0, 2, 4, 1, 3, 5).ravel()
    flat = np.concatenate([flat, run.ravel(), np.full(-run.size % 64, -1)])
    return np.argsort(flat, kind="stable")[-v.size :], flat.size


def decode(codec, data, n):  # "Codecs": the bytes of a member -> float32 [n, *shape]
    if codec["codec"] == "raw":
        x = np.frombuffer(data, {"fp32": "<f4", "fp16": "<f2", "bf16": "<u2"}[codec["dtype"]])
        x = (x.astype("<u4") << 16).view("<f4") if codec["dtype"] == "bf16" else x.astype("<f4")
    else:
        (place, size), bits = places(codec["spec"], codec["order"]), codec["block_bits"]
        assert len(data) == -(-n * size * bits // 4096) * 8  # zfpy trusts us
        x = zfpy._decompress(data, zfpy.type_float, (n * size // 16, 4, 4), rate=bits / 64).reshape(n, size)[:, place]
    return x.reshape(n, *codec["spec"]["shape"])


def read(folder, layer, stream="base"):  # each chunk's keys, fields and features, every checksum verified
    manifest = json.loads((pathlib.Path(folder) / "manifest.json").read_bytes())
    codec = next(each for each in manifest["plan"]["layers"] if each["name"] == layer)["codec"]
    for shard in manifest["layers"][layer]["shards"]:
        data = (pathlib.Path(folder) / layer / shard["name"]).read_bytes()
        index = unseal(data[shard["index_offset"] :][: shard["index_length"]])
        assert (manifest["version"], index["plan"], index["layer"]) == (1, manifest["plan_digest"], layer)
        for n, where in index["chunks"]:
            got = {m: data[at : at + size] for m, (at, size, _) in zip(index["members"], where, strict=True)}
            assert [zlib.crc32(member) for member in got.values()] == [crc for _, _, crc in where]
            meta = unseal(got["meta"])
            yield meta["keys"], meta["fields"], decode(codec, got[f"{stream}.{codec['codec']}"], n)
