"""Weight expressions: nodes whose value depends on the state only, such as the `cat` of three weights.

Passes leave them in the graph, so that the state stays the model's own; a target folds them when it lowers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from graphwright.ir.node import OpOverload, value_of
from graphwright.ir.program import Program

SMALL = 1 << 16


def constant_nodes(program: Program, limit: int = SMALL) -> set[Node]:
    """Calls that only depend on the state, and whose value takes no more bytes than what it is computed from.

    A value of at most `limit` bytes is always allowed; an op that is random or writes to its arguments never is.
    """
    constant: set[Node] = set()
    for node in program.graph.nodes:
        if node.op == "get_attr":
            if isinstance(program.state[str(node.target)], torch.Tensor):
                constant.add(node)
        elif node.op == "call_function" and _is_pure(node) and all(n in constant for n in node.all_input_nodes):
            constant.add(node) if _is_small(node, limit) else None
    return {node for node in constant if node.op == "call_function"}


def evaluate(program: Program, node: Node, cache: dict[Node, Any] | None = None) -> Any:
    """Value of a constant node, computed on the program's state without gradients."""
    cache = {} if cache is None else cache
    with torch.no_grad():
        for needed in _closure(node):
            if needed not in cache:
                cache[needed] = _compute(program, needed, cache)
    return cache[node]


def fold(program: Program, limit: int = SMALL) -> Program:
    """A copy of `program` with its weight expressions computed; new tensors are called `folded.<node>`.

    Args:
        program: Stays as it is.
        limit: Bytes that a value may have however small what it is computed from.
    """
    folded = program.clone()
    constant = constant_nodes(folded, limit)
    frontier = [
        n for n in constant if isinstance(value_of(n), torch.Tensor) and any(u not in constant for u in n.users)
    ]
    for node in sorted(frontier):
        name = f"folded.{node.name}"
        folded.state[name] = evaluate(folded, node)
        with folded.graph.inserting_before(node):
            attribute = folded.graph.create_node("get_attr", name)
        attribute.meta = {key: value for key, value in node.meta.items()}
        node.replace_all_uses_with(attribute)
    folded.graph.eliminate_dead_code(lambda n: n.op in ("placeholder", "output") or n.is_impure())
    used = {str(node.target) for node in folded.graph.nodes if node.op == "get_attr"}
    folded.state = {name: value for name, value in folded.state.items() if name in used}
    folded.touch()
    return folded


def _is_pure(node: Node) -> bool:
    target: Any = node.target
    if not isinstance(target, OpOverload):
        return getattr(target, "__name__", "") == "getitem"
    random = torch.Tag.nondeterministic_seeded in target.tags
    return not random and not target._schema.is_mutable


def _is_small(node: Node, limit: int) -> bool:
    size = _bytes([node])
    return size is not None and (size <= limit or size <= (_bytes(node.all_input_nodes) or 0))


def _bytes(nodes: Iterable[Node]) -> int | None:
    """Bytes of the values, None where a size is symbolic or not a tensor's."""
    total = 0
    for node in nodes:
        for leaf in pytree.tree_leaves(value_of(node)):
            if not isinstance(leaf, torch.Tensor) or not all(isinstance(size, int) for size in leaf.shape):
                return None
            total += leaf.numel() * leaf.element_size()
    return total


def _closure(node: Node) -> list[Node]:
    """The node and what it depends on, in execution order."""
    seen: dict[Node, None] = {}
    stack = [node]
    while stack:
        current = stack.pop()
        if current not in seen:
            seen[current] = None
            stack.extend(current.all_input_nodes)
    return sorted(seen)


def _compute(program: Program, node: Node, values: dict[Node, Any]) -> Any:
    if node.op == "get_attr":
        return program.state[str(node.target)].detach()
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
    return node.target(*args, **kwargs)  # type: ignore[operator]
