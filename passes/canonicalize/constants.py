"""Constant folding: what depends on no input and no trainable weight is computed once."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from graphwright.ir.node import module_path
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter, is_needed
from graphwright.ir.views import views_of


def fold_constants(program: Program, rewriter: Rewriter, *, limit: int, skip: Collection[Node] = frozenset()) -> int:
    """Replace constant values that the rest of the program uses by tensors of the state.

    Only the last value of a constant chain is kept. Parameters are not constants (they may be trained), nor are
    buffers of a program in training mode.

    Args:
        program: The program.
        rewriter: Its rewriter.
        limit: Largest size of a folded constant, in bytes.
        skip: Nodes that are no constants, such as state that the program writes to.

    Returns:
        The number of values folded.
    """
    constant = _constants(program, skip)
    values: dict[Node, torch.Tensor] = {}
    folded = 0
    for node in list(program.graph.nodes):
        if node not in constant or node.op == "get_attr" or all(user in constant for user in node.users):
            continue
        if _is_returned(node):
            continue
        value = _evaluate(node, program, values)
        if isinstance(value, torch.Tensor) and value.numel() * value.element_size() <= limit:
            with rewriter.site("FoldConstants", _chain(node)) as edit:
                edit.path = module_path(node)
                edit.replace(node, edit.get_state(_name(node), value))
                edit.erase(node)
            folded += 1
    return folded


def _chain(node: Node) -> list[Node]:
    """A constant and all that it is computed from."""
    chain, stack = {node}, [node]
    while stack:
        fresh = [source for source in stack.pop().all_input_nodes if source not in chain]
        chain.update(fresh)
        stack.extend(fresh)
    return sorted(chain)


def _is_returned(node: Node) -> bool:
    """Whether the program returns a value, which the caller may then write to, or a view of it."""
    return any(user.op == "output" for view in views_of(node) for user in view.users)


def _constants(program: Program, skip: Collection[Node]) -> set[Node]:
    """Nodes whose value is the same in every run."""
    constant: set[Node] = set()
    for node in program.graph.nodes:
        if node in skip:
            continue
        if node.op == "get_attr":
            is_constant = _is_constant_state(program, str(node.target))
        else:
            is_constant = (
                node.op == "call_function"
                and not is_needed(node)
                and _is_pure(node)
                and isinstance(node.meta.get("val"), torch.Tensor)
                and all(isinstance(size, int) for size in node.meta["val"].shape)
                and all(source in constant for source in node.all_input_nodes)
            )
        if is_constant:
            constant.add(node)
    return constant


def _is_constant_state(program: Program, name: str) -> bool:
    value = program.state[name]
    is_weight = isinstance(value, torch.nn.Parameter) or not isinstance(value, torch.Tensor)
    return not is_weight and not program.training and value.device.type != "meta"


def _is_pure(node: Node) -> bool:
    tags = getattr(node.target, "tags", ())
    return not isinstance(node.target, torch._ops.HigherOrderOperator) and torch.Tag.nondeterministic_seeded not in tags


def _evaluate(node: Node, program: Program, values: dict[Node, torch.Tensor]) -> Any:
    """The value of a constant node, computed with the values it depends on."""

    def load(source: Node) -> Any:
        if source.op == "get_attr":
            return program.state[str(source.target)]
        if source not in values:
            values[source] = _evaluate(source, program, values)
        return values[source]

    target: Any = node.target
    with torch.no_grad():
        result = target(*map_arg(node.args, load), **map_arg(node.kwargs, load))
    return result.contiguous() if isinstance(result, torch.Tensor) else result


def _name(node: Node) -> str:
    path = module_path(node)
    return f"{path}.{node.name}" if path else node.name
