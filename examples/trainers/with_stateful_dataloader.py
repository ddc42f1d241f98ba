"""torchdata's StatefulDataLoader, stopped at any step and gone on with.

    torchrun --standalone --nproc-per-node 2 examples/trainers/with_stateful_dataloader.py OUT --checkpoint D \\
        --stop-after 7
    torchrun --standalone --nproc-per-node 1 examples/trainers/with_stateful_dataloader.py OUT --checkpoint D

Its state holds that of every worker, and serves the same rank of as many, with as many workers. So each rank saves its
own; and beside it what the data set says of the batches that the trainer was given, a state which any number of ranks
and workers goes on from. `fmshards.loader` counts these itself, and is the simpler way.

Trap: give it batch_size=None, since a FeatureDataset makes whole batches.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from common import Seen, arguments, loss_of, network
from torch.nn.parallel import DistributedDataParallel
from torchdata.stateful_dataloader import StatefulDataLoader

import fmshards


def main() -> None:
    args = arguments(__doc__)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model, suffix = network()
    dataset = fmshards.FeatureDataset(args.shards, batch_size=args.batch_size, model=model)
    batches = StatefulDataLoader(dataset, batch_size=None, num_workers=args.workers)
    net = DistributedDataParallel(suffix)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    args.checkpoint.mkdir(parents=True, exist_ok=True)
    own, common = args.checkpoint / f"rank{rank}-of-{ranks}-{args.workers}.pt", args.checkpoint / "common.pt"
    first, before = 0, 0  # the epoch to go on with, and its batches that were given before
    if common.exists():
        saved = torch.load(common, weights_only=True)
        suffix.load_state_dict(saved["suffix"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["data"]["epoch"]
        if own.exists():
            batches.load_state_dict(torch.load(own, weights_only=True))
            before = saved["given"]
        else:
            dataset.load_state_dict(saved["data"], args.workers)
    seen, steps = Seen(args.seen, rank), 0
    net.train()

    for epoch in range(first, args.epochs):
        given, before = before, 0
        for batch in batches:
            seen.note(epoch, batch)
            optimizer.zero_grad()
            loss_of(net, batch).backward()
            optimizer.step()
            steps, given = steps + 1, given + 1
            if steps == args.stop_after:
                break
        if steps == args.stop_after:
            break

    torch.save(batches.state_dict(), own)
    if rank == 0:
        rest = {"data": dataset.state_dict(given), "given": given}
        torch.save({"suffix": suffix.state_dict(), "optimizer": optimizer.state_dict(), **rest}, common)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
