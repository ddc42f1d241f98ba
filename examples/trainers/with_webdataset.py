"""A hand-built WebDataset pipeline over the loader, stopped at any step and gone on with.

    torchrun --standalone --nproc-per-node 2 examples/trainers/with_webdataset.py OUT --checkpoint run.pt --stop-after 7
    torchrun --standalone --nproc-per-node 1 examples/trainers/with_webdataset.py OUT --checkpoint run.pt

The loader is the pipeline's first stage; what comes after it is any stage of WebDataset's. It counts the batches that
it gave to the pipeline, so its state is exact where the later stages hold none back.

Traps: `wds.shuffle` and `wds.batched` after it hold batches back, which a stop would lose; the loader shuffles already.
`wds.split_by_node` would leave out batches that no other rank has, and is refused. Pipelines over the shards themselves
(examples/webdataset_pipeline.py) split the list of shards, verify and decode, and have no state.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
import webdataset as wds
from common import LAYER, Seen, arguments, network
from torch.nn.parallel import DistributedDataParallel

import fmshards


def to_train(batch: dict[str, Any]) -> dict[str, Any]:
    """Any stage of one's own: here labels that are smoothed."""
    return {**batch, "target": F.one_hot(batch["cls"], 10).float() * 0.9 + 0.01}


def main() -> None:
    args = arguments(__doc__)
    dist.init_process_group("gloo")
    model, suffix = network()
    loader = fmshards.loader(args.shards, args.batch_size, num_workers=args.workers, model=model)
    batches = wds.DataPipeline(loader, wds.map(to_train))
    net = DistributedDataParallel(suffix)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    if args.checkpoint.exists():
        saved = torch.load(args.checkpoint, weights_only=True)
        suffix.load_state_dict(saved["suffix"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
    seen, steps = Seen(args.seen, dist.get_rank()), 0
    net.train()

    while loader.epoch < args.epochs and steps != args.stop_after:
        epoch = loader.epoch
        for batch in batches:
            seen.note(epoch, batch)
            optimizer.zero_grad()
            F.cross_entropy(net(batch[LAYER]), batch["target"]).backward()
            optimizer.step()
            steps += 1
            if steps == args.stop_after:
                break

    if dist.get_rank() == 0:
        saved = {"suffix": suffix.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
        torch.save(saved, args.checkpoint)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
