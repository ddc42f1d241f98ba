"""What a trainer needs beyond the loader. Imported by name, since each imports its trainer.

transformers.py   LoaderState, a callback that keeps the loader's state in a Trainer's checkpoints

Lightning keeps the state by itself, Accelerate by `register_for_checkpointing`: see `examples/trainers/`.
"""
