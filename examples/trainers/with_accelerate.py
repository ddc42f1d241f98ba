"""Accelerate, stopped at any step and gone on with on any number of processes.

    torchrun --standalone --nproc-per-node 2 examples/trainers/with_accelerate.py OUT --checkpoint run --stop-after 7
    torchrun --standalone --nproc-per-node 1 examples/trainers/with_accelerate.py OUT --checkpoint run --batch-size 100

Traps: `accelerator.prepare` would split an iterable data set's batches over the processes again; what fmshards.loader
returns it leaves as it is, and a plain DataLoader over a FeatureDataset is refused. So batches come on the CPU: move
them, as below. `register_for_checkpointing` saves the loader's state with the rest; `skip_first_batches` would skip
twice. Accumulated gradients are not synchronised at an epoch's last batch but go on into the next epoch.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from common import Seen, arguments, loss_of, network

import fmshards


def main() -> None:
    args = arguments(__doc__)
    # Without a GPU it must be told so, or processes do not find each other.
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    model, suffix = network()
    batches = fmshards.loader(args.shards, args.batch_size, num_workers=args.workers, model=model)
    optimizer = torch.optim.SGD(suffix.parameters(), lr=0.01, momentum=0.9)
    net, optimizer, batches = accelerator.prepare(suffix, optimizer, batches)
    accelerator.register_for_checkpointing(batches)
    if args.checkpoint.exists():
        accelerator.load_state(str(args.checkpoint))
    seen, steps = Seen(args.seen, accelerator.process_index), 0
    net.train()

    while batches.epoch < args.epochs and steps != args.stop_after:
        epoch = batches.epoch
        for batch in batches:
            seen.note(epoch, batch)
            on_device = {k: x.to(accelerator.device) if isinstance(x, torch.Tensor) else x for k, x in batch.items()}
            optimizer.zero_grad()
            accelerator.backward(loss_of(net, on_device))
            optimizer.step()
            steps += 1
            if steps == args.stop_after:
                break
        else:
            accelerator.print(f"epoch {epoch}: done after {steps} steps of this run")

    accelerator.save_state(str(args.checkpoint))
    accelerator.end_training()


if __name__ == "__main__":
    main()
