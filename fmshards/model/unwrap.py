"""The model itself, out of what trainers wrap around it; and a plain refusal of what cannot be split at all."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from fmshards.errors import InputError, ModelError

_WRAPPERS = {
    "OptimizedModule": "_orig_mod",  # torch.compile
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",  # torch.optim.swa_utils
    "DeepSpeedEngine": "module",
    "_FabricModule": "_forward_module",
}
"""Class of a wrapper -> the name of the module in it. By name: importing them all would take seconds."""


def unwrap(model: Any) -> nn.Module:
    """The module inside `torch.compile`, DataParallel, DistributedDataParallel and their like; a plain one as it is.

    Raises InputError for what is no module, and ModelError, saying what to pass instead, for modules whose forward
    or weights are not there to be looked at: TorchScript, `torch.export`, FSDP, the meta device, lazy layers.
    """
    while isinstance(model, nn.Module):
        inner = wrapped(model)
        if inner is None:
            break
        model = inner
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {type(model).__name__}; expected a torch.nn.Module")
    _refuse(model)
    return model


def rounds_otherwise(model: nn.Module) -> bool:
    """Whether a module is compiled by inductor, whose kernels give other last bits than the module inside."""
    return any(
        getattr(getattr(m, "dynamo_ctx", None), "compiler_config", None) is not None
        or vars(m).get("_compiled_call_impl") is not None
        for m in model.modules()
    )


def wrapped(model: nn.Module) -> nn.Module | None:
    """The module in a wrapper; None for one that is no wrapper."""
    for cls in type(model).__mro__:
        name = _WRAPPERS.get(cls.__name__)
        inner = model._modules.get(name) if name is not None else None
        if inner is not None:
            return inner
    return None


def _refuse(model: nn.Module) -> None:
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"the model is TorchScript ({name}), whose forward cannot be split: pass the module that was scripted or "
            "traced, with the same weights (load_state_dict takes the script's state_dict())"
        )
    if isinstance(model, torch.fx.GraphModule) and "_guards_fn" in dict(model.named_children()) | vars(model):
        raise ModelError(
            "the model is of torch.export, whose train() and eval() are fixed: pass the module that was exported"
        )
    for path, module in model.named_modules():
        if any(cls.__name__ in ("FullyShardedDataParallel", "FSDPModule") for cls in type(module).__mro__):
            raise ModelError(
                f"the weights of {path or 'the model'} are spread over processes by FSDP: pass the module before it is "
                "wrapped, with its full state dict loaded into it"
            )
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(f"{path} is of a lazy layer without weights yet: run the model on one image first")
        if tensor.is_meta:
            raise ModelError(
                f"the model's weights are not there: {path} is on the meta device; put them into memory with "
                "model.to_empty(device='cpu') and load_state_dict(...)"
            )
