"""Which module makes a graph compute something else than its model."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from fmshards.model.graph.modes import kept_buffers, kept_generators, mode, seed
from fmshards.model.graph.run import alike, run
from fmshards.model.graph.trace import Trace


def culprit(model: nn.Module, traced: Trace, x: torch.Tensor, training: bool) -> str | None:
    """The path of the first module whose output in the graph is not what the module gives; None where none is.

    Only modules that were traced through can be at fault. Both sides run with the same random numbers.
    """
    found: dict[str, torch.Tensor] = {}
    wrong: list[str] = []
    returned: dict[str, list[str]] = {}
    for path, name in traced.returns.items():
        returned.setdefault(name, []).append(path)
    exact = x.device.type == "cpu"

    def seen(node: fx.Node, value: Any) -> None:
        for path in returned.get(node.name, ()):
            if isinstance(value, torch.Tensor):
                found[path] = value.clone()

    def hook(path: str) -> Any:
        def compare(module: nn.Module, args: Any, output: Any) -> None:
            if not alike(found[path], output, exact):
                wrong.append(path)

        return compare

    with kept_generators(), kept_buffers(model), mode(model, training), torch.no_grad():
        seed()
        run(model, traced.graphs[training], traced.constants, x.clone(), seen)
    handles = [model.get_submodule(path).register_forward_hook(hook(path)) for path in found]
    try:
        with kept_generators(), kept_buffers(model), mode(model, training), torch.no_grad():
            seed()
            model(x.clone())
    finally:
        for handle in handles:
            handle.remove()
    called = {str(n.target) for n in traced.graphs[training].nodes if n.op == "call_module"}
    return next((path for path in wrong if path not in called), None)
