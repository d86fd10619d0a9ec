"""Calls that change the element type, or nothing at all."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.node import is_call
from graphwright.lowering.common import register_plumbing
from graphwright.lowering.openvino.builder import Builder, Value, op
from graphwright.lowering.openvino.table import register

aten = torch.ops.aten


@register(
    aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.to.other, aten._to_copy.default, aten.type_as.default,
    torch.ops.prims.convert_element_type.default,
)  # fmt: skip
def cast(b: Builder, *args: Any, **arguments: Any) -> Any:
    """The value in the type of the result; what is cut off a float is its fraction, as in torch."""
    source = arguments.get("self", arguments.get("a"))
    assert isinstance(source, Value)
    out = b.cast(source, b.result.dtype)
    if b.result.dtype.is_floating_point or not source.dtype.is_floating_point or b.result.dtype is torch.bool:
        return out
    return b.cast(_nudged(b, source), b.result.dtype) if _from_logarithm(b.node) else out


def _from_logarithm(node: Node | None, steps: int = 6) -> bool:
    """Whether a value is computed from a logarithm by a few products and sums."""
    if node is None or not node.args or not isinstance(node.args[0], Node):
        return False
    source = node.args[0]
    if is_call(source, aten.log):
        return True
    return steps > 0 and is_call(source, aten.mul, aten.div, aten.add) and _from_logarithm(source, steps - 1)


def _nudged(b: Builder, source: Value) -> Any:
    """A value a few roundings larger.

    OpenVINO's logarithm is a rounding off where torch's is exact, as for powers of two: what should be a whole number,
    such as the bucket of a relative position, would be cut off to the one before.
    """
    return op.multiply(source.out, b.const(1 + 2**-20, source.dtype)).output(0)


@register(
    aten.alias.default, aten.clone.default, aten.contiguous.default, aten.detach.default, aten.detach_.default,
    aten.lift_fresh_copy.default, aten.resolve_conj.default, aten.resolve_neg.default, aten.dropout.default,
    aten.feature_dropout.default, aten.alpha_dropout.default,
)  # fmt: skip
def same_value(b: Builder, **arguments: Any) -> Any:
    """The value; dropout is off."""
    return next(value for value in arguments.values() if isinstance(value, Value)).out


@register(aten.copy.default)
def copy(b: Builder, self: Value, src: Value, non_blocking: bool) -> Any:
    """A value in the type and sizes of another."""
    return b.expand(b.cast(src, self.dtype), src.shape, self.shape)


register_plumbing(register)


@register(aten.item.default, aten._local_scalar_dense.default)
def item(b: Builder, self: Value) -> Any:
    """A value as a number that sizes may use."""
    value = op.reshape(b.cast(self, torch.int64), b.const([1]), False).output(0)
    assert b.node is not None
    number = b.node.meta["val"]
    if isinstance(number, torch.SymInt):
        b.define(number, value)
    return number
