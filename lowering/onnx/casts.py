"""Conversions between element types."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from graphwright.lowering.onnx.table import Emission, register

aten = torch.ops.aten


@register(
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.other,
    aten._to_copy.default,
    aten.type_as.default,
    torch.ops.prims.convert_element_type.default,
)
def to(b: Emission, **arguments: Any) -> ir.Value:
    """The first argument in the element type of the result."""
    return b.cast(next(iter(arguments.values())), b.result.dtype)


@register(aten._local_scalar_dense.default, aten.item.default)
def item(b: Emission, self: ir.Value) -> None:
    """A number out of a tensor: a size that other calls may use."""
    number = b.node.meta["val"]  # type: ignore[union-attr]
    if isinstance(number, torch.SymInt):
        b.sizes.define(number, b.op("Reshape", b.cast(self, torch.int64), b.const([1])))


@register(aten.scalar_tensor.default)
def scalar_tensor(b: Emission, s: Any, **_: Any) -> ir.Value:
    """A number as a tensor of rank 0."""
    return b.scalar(s, b.result.dtype)
