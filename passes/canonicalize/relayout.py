"""Relayouts that undo each other, next to each other or around elementwise ops."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.infer import same_shape
from graphwright.ir.node import bound, is_call, shape_of
from graphwright.passes.local import RuleTable

aten = torch.ops.aten
TABLE = RuleTable()


@TABLE.local_rule(aten.reshape)
def reshape_of_flat_view(node: Node, edit: Edit) -> Any:
    """What keeps the order of the elements, as `unsqueeze` does, is nothing before a reshape."""
    source, sizes = node.args[0], node.args[1]
    flat = is_call(source, aten.unsqueeze, aten.squeeze, aten.flatten, aten.unflatten)
    known = not any(isinstance(size, int) and size < 0 for size in sizes)  # type: ignore[union-attr]
    return edit.call(aten.reshape.default, source.args[0], sizes) if flat and known else None  # type: ignore[union-attr]


@TABLE.local_rule(aten.squeeze.dim)
def squeeze_of_unsqueeze(node: Node, edit: Edit) -> Any:
    """An axis that is added and removed."""
    source: Any = node.args[0]
    rank = len(shape_of(source) or ())
    if not is_call(source, aten.unsqueeze) or not rank:
        return None
    same = bound(node)["dim"] % rank == bound(source)["dim"] % rank
    return source.args[0] if same else None


@TABLE.local_rule(aten.unsqueeze)
def unsqueeze_of_squeeze(node: Node, edit: Edit) -> Any:
    """An axis of size 1 that is removed and added."""
    source: Any = node.args[0]
    if not is_call(source, aten.squeeze.dim):
        return None
    inner = source.args[0]
    new, old = shape_of(node) or (0,), shape_of(inner) or (0,)
    same_axis = bound(node)["dim"] % len(new) == bound(source)["dim"] % len(old)
    return inner if same_axis and same_shape(shape_of(inner) or (), shape_of(node) or ()) else None


@TABLE.local_rule(aten.permute, aten.transpose.int)
def permutation_of_permutation(node: Node, edit: Edit) -> Any:
    """Permutations that undo each other are nothing; two `permute` are one."""
    source: Any = node.args[0]
    outer, inner = _order(node), _order(source)
    if outer is None or inner is None:
        return None
    order = [inner[axis] for axis in outer]
    if order == sorted(order):
        return source.args[0]
    both = is_call(node, aten.permute) and is_call(source, aten.permute)
    return edit.call(aten.permute.default, source.args[0], order) if both else None


@TABLE.local_rule(aten.permute, aten.transpose.int)
def permutations_around_elementwise(node: Node, edit: Edit) -> Any:
    """`transpose(relu(transpose(x)))` is `relu(x)`."""
    outer, chain = _order(node), []
    current: Any = node.args[0]
    while _is_elementwise(current) and len(current.users) == 1:
        chain.append(current)
        current = current.args[0]
    inner = _order(current)
    if outer is None or inner is None or not chain or [inner[axis] for axis in outer] != list(range(len(outer))):
        return None
    value = current.args[0]
    for op in reversed(chain):
        value = edit.copy(op, (value, *op.args[1:]), dict(op.kwargs))
    return value


def _order(node: Any) -> list[int] | None:
    """Source axis of each axis of a permuting op's result, None for other nodes."""
    rank = len(shape_of(node) or ()) if isinstance(node, Node) else 0
    if is_call(node, aten.permute):
        return [int(axis) % rank for axis in bound(node)["dims"]]
    if not is_call(node, aten.transpose.int):
        return None
    order, (first, second) = list(range(rank)), (int(axis) % rank for axis in node.args[1:3])
    order[first], order[second] = order[second], order[first]
    return order


def _is_elementwise(node: Any) -> bool:
    """Whether a call treats each element of its first argument, its only tensor, by itself."""
    if not isinstance(node, Node) or len(node.all_input_nodes) != 1 or not isinstance(node.args[0], Node):
        return False
    return torch.Tag.pointwise in getattr(node.target, "tags", ()) or is_call(node, aten.to.dtype)
