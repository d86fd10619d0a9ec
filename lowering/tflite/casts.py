"""Calls that change the element type, or nothing at all."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.lowering.common import register_plumbing
from graphwright.lowering.tflite.builder import Builder
from graphwright.lowering.tflite.graph import Value
from graphwright.lowering.tflite.table import register

aten = torch.ops.aten


@register(
    aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.to.other, aten._to_copy.default, aten.type_as.default,
    torch.ops.prims.convert_element_type.default,
)  # fmt: skip
def cast(b: Builder, *args: Any, **arguments: Any) -> Value:
    """The value in the type of the result."""
    return b.cast(arguments["self"] if "self" in arguments else arguments["a"], b.dtype)


@register(
    aten.alias.default, aten.clone.default, aten.contiguous.default, aten.detach.default, aten.detach_.default,
    aten.lift_fresh_copy.default, aten.resolve_conj.default, aten.resolve_neg.default, aten.dropout.default,
    aten.feature_dropout.default, aten.alpha_dropout.default,
)  # fmt: skip
def same_value(b: Builder, **arguments: Any) -> Value:
    """The value; dropout is off."""
    return next(value for value in arguments.values() if isinstance(value, Value))


@register(aten.copy.default)
def copy(b: Builder, self: Value, src: Value, non_blocking: bool) -> Value:
    """A value in the type and sizes of another."""
    return b.expand(b.cast(src, self.dtype), self.shape)


register_plumbing(register)
