"""Stored features inside a hand-built WebDataset pipeline: verified chunks in, samples out, any stage after it.

python examples/webdataset_pipeline.py OUT/layer2
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import webdataset as wds

import fmshards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("layer", help="the folder of one layer's shards, such as OUT/layer2")
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()

    folder = Path(args.layer)
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    pipeline = wds.DataPipeline(
        wds.SimpleShardList(urls, seed=0),
        wds.split_by_node,
        wds.split_by_worker,
        fmshards.decode_chunks(),
        wds.shuffle(1000, rng=None),
        wds.to_tuple(folder.name, "cls"),
        wds.batched(64, partial=True),
    )
    for epoch in range(args.epochs):
        samples, mean = 0, 0.0
        for features, labels in pipeline:
            samples += len(labels)
            mean += float(torch.as_tensor(features).mean()) * len(labels)
        print(f"epoch {epoch}: {samples} samples, mean feature {mean / samples:.4f}")


if __name__ == "__main__":
    main()
