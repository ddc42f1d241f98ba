import json, math, pathlib, struct, zlib, msgpack, numpy as np, zfpy, zstandard  # noqa: E401, I001  # 40 lines
from tests.shards.dct40 import features  # "Rows of dct", 70 lines more
from tests.shards.layout40 import places  # "Layout", 15 lines more


def unseal(data):  # "Envelope"
    assert (data[0], data[-5], struct.unpack(">I", data[-4:])) == (0x92, 0xCE, (zlib.crc32(data[:-5]),))
    return msgpack.unpackb(data[1:-5])


def decode(codec, data, n):  # "Codecs": the bytes of a member -> float32 [n, *shape]
    kind, shape, bits = codec["spec"]["kind"], codec["spec"]["shape"], codec.get("bits", 8)
    bf16 = lambda data: (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")  # noqa: E731  # to stay within 40 lines
    block = codec.get("block_bits", 32 if codec.get("dtype") == "fp32" else 16)  # bits of a zfp block or of a raw value
    if "filter" in codec:  # "Filter": a frame of all items' first bytes, then their second ones ...
        data = {"zstd": zstandard.decompress}[codec["filter"]](data)
        item = {"int": bits // math.gcd(bits, 8), "dct": 1}.get(codec["codec"], block // 8)
        whole = len(data) // item * item
        data = np.frombuffer(data[:whole], "u1").reshape(item, -1).T.tobytes() + data[whole:]
    if codec["codec"] == "raw":
        x = np.frombuffer(data, f"<f{block // 8}").astype("<f4") if codec["dtype"] != "bf16" else bf16(data)
    elif codec["codec"] == "int":
        runs = 1 if kind == "vector" else shape[0] if kind == "map" else shape[-1]
        rows, head = np.frombuffer(data, "u1").reshape(n, -1), 0 if codec["scale"] else 4 * runs
        steps = np.float32([codec["scale"], codec["offset"]]) if codec["scale"] else bf16(rows[:, :head].tobytes())
        scale, offset = steps.reshape(n if head else 1, 2, runs, -1).swapaxes(0, 1)
        each = np.unpackbits(rows[:, head:].reshape(n, runs, -1), 2, math.prod(shape) // runs * bits, "little")
        x = scale * (each.reshape(n, runs, -1, bits) @ (1 << np.arange(bits))).astype("<f4") + offset
        x = x if kind in ("map", "vector") else x.swapaxes(1, 2)
    elif codec["codec"] == "dct":
        x = features(codec, np.frombuffer(data, "u1").reshape(n, -1))
    else:
        place, size = places(codec["spec"], codec["order"])
        assert len(data) == -(-n * size * block // 4096) * 8  # zfpy trusts us
        x = zfpy._decompress(data, zfpy.type_float, (n * size // 16, 4, 4), rate=block / 64).reshape(n, size)[:, place]
    return x.reshape(n, *shape)


def read(folder, layer, stream="base"):  # each chunk's keys, fields and features, every checksum verified
    manifest = json.loads((pathlib.Path(folder) / "manifest.json").read_bytes())
    codec = next(p.get(f"{stream}_codec", p["codec"]) for p in manifest["plan"]["layers"] if p["name"] == layer)
    for shard in manifest["layers"][layer]["shards"]:
        data = (pathlib.Path(folder) / layer / shard["name"]).read_bytes()
        index = unseal(data[shard["index_offset"] :][: shard["index_length"]])
        assert (manifest["version"], index["plan"], index["layer"]) == (1, manifest["plan_digest"], layer)
        for n, where in index["chunks"]:
            got = {m: data[at : at + size] for m, (at, size, _) in zip(index["members"], where, strict=True)}
            assert [zlib.crc32(member) for member in got.values()] == [crc for _, _, crc in where]
            yield *map(unseal(got["meta"]).get, ("keys", "fields")), decode(codec, got[f"{stream}.{codec['codec']}"], n)
