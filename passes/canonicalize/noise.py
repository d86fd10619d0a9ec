"""Ops that compute nothing: asserts, inactive dropout, aliases, copies."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.node import bound
from graphwright.passes.local import RuleTable

aten = torch.ops.aten
TABLE = RuleTable()
ASSERTS = (
    aten._assert_tensor_metadata,
    aten._assert_async,
    aten._assert_scalar,
    aten.sym_constrain_range,
    aten.sym_constrain_range_for_size,
)


@TABLE.local_rule(aten.dropout, aten.feature_dropout, aten.alpha_dropout, aten.feature_alpha_dropout)
def inactive_dropout(node: Node, edit: Edit) -> Any:
    """Dropout in evaluation mode, or with probability 0, returns its input."""
    arguments = bound(node)
    return None if arguments["train"] and arguments["p"] != 0 else arguments["input"]


@TABLE.local_rule(aten.alias, aten.lift_fresh_copy, aten.lift_fresh, aten.clone, aten.contiguous)
def copy_of_value(node: Node, edit: Edit) -> Any:
    """Copies and aliases are the same value in a functional program; memory layout is no part of a value."""
    return node.args[0]


@TABLE.local_rule(aten.detach)
def detach_without_gradient(node: Node, edit: Edit) -> Any:
    """Detach matters only where a gradient could flow: not for integers, and not for what no parameter reaches."""
    source: Any = node.args[0]
    return None if may_need_gradient(source) else source


def may_need_gradient(node: Node, limit: int = 2000) -> bool:
    """Whether a floating-point input or a parameter reaches `node` other than through comparisons and integers."""
    stack, seen = [node], {node}
    while stack and len(seen) < limit:
        current = stack.pop()
        value = current.meta.get("val")
        if not isinstance(value, torch.Tensor) or not (value.dtype.is_floating_point or value.dtype.is_complex):
            continue
        if current.op == "placeholder" or (current.op == "get_attr" and value.requires_grad):
            return True
        fresh = [source for source in current.all_input_nodes if source not in seen]
        seen.update(fresh)
        stack.extend(fresh)
    return bool(stack)


def is_assert(node: Node) -> bool:
    """Whether a node only checks something; `Program.run` checks its inputs itself."""
    packet = getattr(node.target, "overloadpacket", None)
    return node.op == "call_function" and packet in ASSERTS


@TABLE.local_rule(aten.add, aten.sub)
def add_zero(node: Node, edit: Edit) -> Any:
    """X + 0 and x - 0 are x where the type stays."""
    source, other = node.args[0], node.args[1]
    if isinstance(source, Node) and _is_number(other, 0) and _same_type(node, source):
        return source
    return None


@TABLE.local_rule(aten.mul, aten.div)
def multiply_by_one(node: Node, edit: Edit) -> Any:
    """X * 1 and x / 1 are x where the type stays."""
    source, other = node.args[0], node.args[1]
    rounds = bound(node).get("rounding_mode") is not None
    if isinstance(source, Node) and _is_number(other, 1) and _same_type(node, source) and not rounds:
        return source
    return None


def _is_number(value: Any, number: int) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == number


def _same_type(node: Node, source: Node) -> bool:
    a, b = node.meta.get("val"), source.meta.get("val")
    return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.dtype == b.dtype


@TABLE.local_rule(aten.__and__, aten.logical_and)
def boolean_and(node: Node, edit: Edit) -> Any:
    """Boolean `and` has one spelling."""
    return edit.call(aten.bitwise_and.Tensor, *node.args) if _all_bool(node) else None


@TABLE.local_rule(aten.__or__, aten.logical_or)
def boolean_or(node: Node, edit: Edit) -> Any:
    """Boolean `or` has one spelling."""
    return edit.call(aten.bitwise_or.Tensor, *node.args) if _all_bool(node) else None


@TABLE.local_rule(aten.logical_not)
def boolean_not(node: Node, edit: Edit) -> Any:
    """Boolean `not` has one spelling."""
    return edit.call(aten.bitwise_not.default, node.args[0]) if _all_bool(node) else None


def _all_bool(node: Node) -> bool:
    values = [arg.meta.get("val") if isinstance(arg, Node) else None for arg in node.args]
    return all(isinstance(value, torch.Tensor) and value.dtype == torch.bool for value in values)


@TABLE.local_rule(aten._softmax, aten.special_softmax)
def softmax_spelling(node: Node, edit: Edit) -> Any:
    """Softmax has one spelling."""
    arguments = bound(node)
    if arguments.get("half_to_float"):
        return None
    source = arguments["self"] if "self" in arguments else arguments["input"]
    return edit.call(aten.softmax.int, source, arguments["dim"], arguments.get("dtype"))
