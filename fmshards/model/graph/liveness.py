"""Where a graph can be cut: the nodes after which one tensor is alive, and nothing else that depends on the input.

Parameters, buffers and what is computed from them alone are fetched or computed again after the cut. Sizes (ints and
tuples of ints) are found again from the tensor at the cut.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import fx


@dataclass(frozen=True)
class Point:
    """A place to cut a graph: after node number `end`, `node` is the only tensor alive."""

    node: fx.Node
    end: int


def free_nodes(nodes: list[fx.Node]) -> set[fx.Node]:
    """The nodes that do not depend on the input: get_attr, and what is computed from these alone."""
    free: set[fx.Node] = set()
    for node in nodes:
        if node.op == "get_attr" or (
            node.op not in ("placeholder", "output") and all(used in free for used in node.all_input_nodes)
        ):
            free.add(node)
    return free


def alive_after(nodes: list[fx.Node]) -> list[list[fx.Node]]:
    """For each node the values alive after it, in order of their making; the free ones left out."""
    place = {node: i for i, node in enumerate(nodes)}
    free = free_nodes(nodes)
    last = {node: max((place[user] for user in node.users), default=-1) for node in nodes}
    alive: list[fx.Node] = []
    found: list[list[fx.Node]] = []
    for i, node in enumerate(nodes):
        if node not in free and last[node] > i:
            alive.append(node)
        alive = [n for n in alive if last[n] > i]
        found.append(list(alive))
    return found


def points(nodes: list[fx.Node], sizes: Collection[fx.Node], common: int) -> list[Point]:
    """All places to cut, in the graph's order. `sizes`: nodes that are no tensors; `common`: look no further."""
    found: dict[fx.Node, Point] = {}
    for i, alive in enumerate(alive_after(nodes)[:common]):
        tensors = [node for node in alive if node not in sizes]
        if len(tensors) != 1 or tensors[0].op == "placeholder" or tensors[0] in found:
            continue
        if set(tensors[0].users) == {nodes[-1]} and nodes[-1].args[0] is tensors[0]:
            continue  # the output itself: nothing is left to train
        found[tensors[0]] = Point(tensors[0], i)
    return list(found.values())
