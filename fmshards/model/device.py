"""A model on the device where it is to run."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fmshards.errors import InputError
from fmshards.model.load import load_model
from fmshards.model.unwrap import unwrap


def _device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or CUDA where there is one. Raises InputError."""
    try:
        found = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:  # AssertionError: CUDA is not built in
        raise InputError(f"the device {device!r} cannot be used: {str(error).splitlines()[0]}") from None
    return found


def load_on(
    model: str | nn.Module, weights: str | None, device: str | torch.device | None
) -> tuple[nn.Module, torch.device]:
    """The model on its device, out of its wrappers. A module of the caller's is never moved: it is copied if it lies
    elsewhere. Raises InputError and ModelError."""
    if isinstance(model, str):
        where = _device(device)
        return load_model(model, weights).to(where), where
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {type(model).__name__}; expected text such as torchvision:resnet18, or a module")
    model = unwrap(model)
    if weights is not None:
        raise InputError("weights are given with a module: load them into it, or name the model by text")
    own = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    if device is None:
        return model, own
    where = _device(device)
    same = own.type == where.type and where.index in (None, own.index)
    return (model, own) if same else (copy.deepcopy(model).to(where), where)
