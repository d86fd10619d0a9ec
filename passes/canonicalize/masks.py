"""Masks: operands of `and` and `or` that change nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.infer import same_shape
from graphwright.ir.node import is_call, shape_of, value_of
from graphwright.passes.local import RuleTable

aten = torch.ops.aten
TABLE = RuleTable()


@TABLE.local_rule(aten.bitwise_and.Tensor)
def and_with_true(node: Node, edit: Edit) -> Any:
    """`x & True` is x."""
    return _other_operand(node, True, edit)


@TABLE.local_rule(aten.bitwise_or.Tensor)
def or_with_false(node: Node, edit: Edit) -> Any:
    """`x | False` is x."""
    return _other_operand(node, False, edit)


def _other_operand(node: Node, neutral: bool, edit: Edit) -> Any:
    first, second = node.args[0], node.args[1]
    for operand, other in ((first, second), (second, first)):
        if not isinstance(operand, Node) or not isinstance(other, Node):
            return None
        same = value_of(other).dtype == torch.bool and same_shape(shape_of(other) or (), shape_of(node) or ())
        if same and _is_filled(operand, neutral, edit):
            return other
    return None


def _is_filled(node: Node, value: bool, edit: Edit) -> bool:
    """Whether a boolean tensor is known to be `value` everywhere."""
    if is_call(node, aten.full):
        return node.args[1] is value
    program = edit.rewriter.program
    constant = program.state.get(str(node.target)) if node.op == "get_attr" and not program.training else None
    if not isinstance(constant, torch.Tensor) or constant.is_meta or constant.numel() != 1:
        return False
    return constant.dtype == torch.bool and bool(constant.item()) is value
