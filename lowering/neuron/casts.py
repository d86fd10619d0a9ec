"""Calls that change the element type, or nothing at all."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.node import bound
from graphwright.lowering.common import register_plumbing
from graphwright.lowering.neuron.builder import Builder, Value
from graphwright.lowering.neuron.table import register
from graphwright.lowering.support import Support

aten = torch.ops.aten


@register(
    aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.to.other, aten._to_copy.default, aten.type_as.default,
    torch.ops.prims.convert_element_type.default, aten.alias.default, aten.clone.default, aten.contiguous.default,
    aten.detach.default, aten.detach_.default, aten.lift_fresh_copy.default, aten.resolve_conj.default,
    aten.resolve_neg.default,
)  # fmt: skip
def cast(b: Builder, **arguments: Any) -> Any:
    """The value in the type of the result; what is cut off a float is its fraction, as in torch."""
    return b.cast(next(value for value in arguments.values() if isinstance(value, Value)), b.result.dtype)


def _inactive(node: Node) -> Support:
    arguments = bound(node)
    if arguments.get("train") or arguments.get("training"):
        return Support.no("dropout in training mode", remedy="capture the model after model.eval()")
    return Support.yes()


@register(aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, validate=_inactive)
def dropout(b: Builder, input: Value, p: float, train: bool) -> Any:
    """Inactive dropout: the input itself."""
    return input.out


@register(aten.copy.default)
def copy(b: Builder, self: Value, src: Value, non_blocking: bool) -> Any:
    """A value in the type and sizes of another."""
    return b.broadcast(b.cast(src, self.dtype), self.shape)


register_plumbing(register)
