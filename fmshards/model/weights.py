"""Weights from a file into a model, whole or not at all."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fmshards.errors import ModelError

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state", "net")
# What trainers put before every key: wrappers' names, and those under which a trainer's module holds the network.
_PREFIXES = (
    "module.", "_orig_mod.", "_forward_module.", "_fsdp_wrapped_module.", "model.", "net.", "network.", "backbone.",
    "encoder.",
)  # fmt: skip


def is_file(weights: str) -> bool:
    """Whether `weights` names a file, and not weights of a library."""
    return weights.endswith(_SUFFIXES) or Path(weights).is_file()


def load_weights(model: nn.Module, path: str) -> None:
    """Fill `model` from a .safetensors file or a weights-only torch file.

    A dictionary under `state_dict` or `model` is understood, and keys of which all begin with what a trainer puts
    there: `module.`, `_orig_mod.`, `model.`, `backbone.` and their like. Raises ModelError where the file cannot be
    read or a key or a shape differs; the model is then as it was.
    """
    wanted = model.state_dict()
    state = _without_prefixes(_unwrap(_read(path), path), wanted)
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in wanted]
    shapes = [k for k in wanted if k in state and state[k].shape != wanted[k].shape]
    if missing or unknown or shapes:
        said = []
        if missing:
            said.append(f"missing {_few(missing)}")
        if unknown:
            said.append(f"not of this model {_few(unknown)}")
        if shapes:
            said.append(
                "of another shape "
                + _few([f"{k} {tuple(state[k].shape)} where the model has {tuple(wanted[k].shape)}" for k in shapes])
            )
        raise ModelError(f"{path} does not fit {type(model).__name__}: {'; '.join(said)}. {_advice(state, wanted)}")
    # Versions of layers are not in every file; keys and shapes fit this model's, so its own are right.
    filled: OrderedDict[str, torch.Tensor] = OrderedDict(state)
    filled._metadata = getattr(wanted, "_metadata", {})  # type: ignore[attr-defined]  # as torch's own state_dict has
    model.load_state_dict(filled, strict=False)


def _read(path: str) -> Any:
    if not Path(path).is_file():
        raise ModelError(f"{path}: no such file of weights")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} cannot be read as weights alone: it holds Python objects, or is no torch file; nothing else "
            f"is ever unpickled. Save the model's state_dict() ({str(error).splitlines()[0][:150]})"
        ) from None
    except Exception as error:
        text = str(error).strip().splitlines() or [""]
        raise ModelError(f"{path} cannot be read as weights: {type(error).__name__}: {text[0][:200]}") from error


def _unwrap(data: Any, path: str) -> dict[str, torch.Tensor]:
    for key in _WRAPPERS:
        if isinstance(data, dict) and isinstance(data.get(key), dict):
            data = data[key]
            break
    if not isinstance(data, dict) or not data or not all(isinstance(v, torch.Tensor) for v in data.values()):
        raise ModelError(f"{path} holds no state_dict: expected a dictionary of tensors")
    return {str(k): v for k, v in data.items()}


def _without_prefixes(state: dict[str, torch.Tensor], wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """The state under the model's own names: a prefix goes where all keys have it, and the model's have it not."""
    while not any(key in wanted for key in state):
        prefix = next((p for p in _PREFIXES if all(k.startswith(p) for k in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    # torch.compile of a part of the model leaves its name in the middle.
    inner = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    return (
        inner if len(inner) == len(state) and len(set(inner) & set(wanted)) > len(set(state) & set(wanted)) else state
    )


def _advice(state: dict[str, torch.Tensor], wanted: Collection[str]) -> str:
    """What to do about keys that do not fit: another prefix, or another factory."""
    ends = [(key.removesuffix(name), name) for name in list(wanted)[:1] for key in state if key.endswith(f".{name}")]
    for prefix, _ in ends:
        if sum(f"{prefix}{name}" in state for name in wanted) > len(wanted) // 2:
            return (
                f"Its keys for this model begin with {prefix!r}: save them without this prefix, and without what is "
                "not of the model, and load that"
            )
    return "A model with another number of classes needs a factory that makes it so"


def _few(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
