"""Putting a model into a mode, or the generators into a state, for a moment; and everything back as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """`model` in train or eval mode; afterwards each module in the mode that it was in."""
    before = [(m, m.training) for m in model.modules()]
    try:
        model.train(training)
        yield
    finally:
        for module, was in before:
            module.training = was


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Buffers as they were: a forward in train mode moves BatchNorm's running statistics."""
    before = [(b, b.detach().clone()) for b in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


@contextmanager
def ungraded(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient; afterwards each as it was."""
    before = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in before:
            parameter.requires_grad_(True)


@contextmanager
def kept_generators() -> Iterator[None]:
    """The global generators of torch, numpy and Python as they were."""
    cpu, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def seed(number: int = 0) -> None:
    """The global generators in one state, always the same for a number; use within `kept_generators`."""
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


def generator_states() -> tuple[Any, ...]:
    """A value that changes when anything is drawn from the global generators."""
    name, keys, *rest = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), name, np.asarray(keys).tobytes(), tuple(rest), random.getstate()


def ambient() -> tuple[Any, ...]:
    """What `with torch.no_grad()`, autocast and their like change: a graph records none of it."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        torch.get_autocast_dtype("cpu"),
        torch.get_autocast_dtype("cuda"),
        torch.get_default_dtype(),
    )
