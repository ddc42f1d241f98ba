"""A plain loop with DistributedDataParallel, stopped at any step and gone on with on any number of ranks.

    torchrun --standalone --nproc-per-node 2 examples/trainers/ddp.py OUT --checkpoint run.pt --stop-after 7
    torchrun --standalone --nproc-per-node 1 examples/trainers/ddp.py OUT --checkpoint run.pt --batch-size 100

The loader knows its rank from torch.distributed, all ranks have equally many batches, and its state is the same on all
of them: one rank saves it, all load it. With as many samples over all ranks as before (2 x 50, then 1 x 100) the rest
of the epoch has the very batches that it would have had; with another number what is left is dealt anew.

Trap: two ranks whose checkpoints are of different steps have different states. Save after a step that all have made,
from one rank.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from common import Seen, arguments, loss_of, network
from torch.nn.parallel import DistributedDataParallel

import fmshards


def main() -> None:
    args = arguments(__doc__)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank = dist.get_rank()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", rank % torch.cuda.device_count())
    model, suffix = network()
    batches = fmshards.loader(args.shards, args.batch_size, num_workers=args.workers, model=model)
    net = DistributedDataParallel(suffix.to(device))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    if args.checkpoint.exists():
        saved = torch.load(args.checkpoint, weights_only=True)
        suffix.load_state_dict(saved["suffix"])
        optimizer.load_state_dict(saved["optimizer"])
        batches.load_state_dict(saved["loader"])
    seen, steps = Seen(args.seen, rank), 0
    net.train()

    # The loader knows which epoch comes: after a state that was loaded, the rest of that one.
    while batches.epoch < args.epochs:
        epoch = batches.epoch
        for batch in batches:
            seen.note(epoch, batch)
            on_device = {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in batch.items()}
            optimizer.zero_grad()
            loss_of(net, on_device).backward()
            optimizer.step()
            steps += 1
            if steps == args.stop_after:
                break
        if steps == args.stop_after:
            break
        if rank == 0:
            print(f"epoch {epoch}: done after {steps} steps of this run")

    if rank == 0:
        saved = {"suffix": suffix.state_dict(), "optimizer": optimizer.state_dict(), "loader": batches.state_dict()}
        torch.save(saved, args.checkpoint)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
