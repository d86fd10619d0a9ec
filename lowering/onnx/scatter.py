"""Copies of tensors with some entries replaced."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from graphwright.lowering.checks import integer_indices
from graphwright.lowering.onnx.indexing import broadcast_shape, result_order, stacked_indices
from graphwright.lowering.onnx.shapes import expanded, transposed
from graphwright.lowering.onnx.sizes import Size, expression
from graphwright.lowering.onnx.slicing import part
from graphwright.lowering.onnx.table import Emission, Number, register

aten = torch.ops.aten


@register(aten.scatter.src, aten.scatter_add.default)
def scatter(b: Emission, self: ir.Value, dim: int, index: ir.Value, src: ir.Value) -> ir.Value:
    """One element of `src` per element of `index` put (or added) into a copy of `self`."""
    assert b.node is not None
    adds = b.node.target is aten.scatter_add.default
    if [*map(expression, b.shape(src))] != [*map(expression, b.shape(index))]:  # torch ignores what is beyond the index
        src = b.op("Slice", src, b.const([0] * b.rank(src)), b.op("Shape", index, dtype=torch.int64))
    return b.op("ScatterElements", self, index, src, axis=dim, reduction="add" if adds else None)


@register(aten.scatter.value)
def scatter_value(b: Emission, self: ir.Value, dim: int, index: ir.Value, value: Number) -> ir.Value:
    """One number put at each position of `index`."""
    updates = b.op("Expand", b.scalar(value, b.result.dtype), b.op("Shape", index, dtype=torch.int64))
    return b.op("ScatterElements", self, index, updates, axis=dim)


@register(aten.index_put.default, validate=integer_indices)
def index_put(b: Emission, self: ir.Value, indices: list[Any], values: ir.Value, accumulate: bool) -> ir.Value:
    """`self[indices] = values` in a copy, by ScatterND on the indexed dimensions moved to the front."""
    dims = [dim for dim, entry in enumerate(indices) if entry is not None]
    rest = [dim for dim in range(b.rank(self)) if dim not in dims]
    given = [entry for entry in indices if entry is not None]
    stacked, rank = stacked_indices(b, given)
    common = broadcast_shape([b.shape(entry) for entry in given])
    order = result_order(dims, rest, rank)
    sizes = [*common, *(b.shape(self)[dim] for dim in rest)]
    wide = expanded(b, b.cast(values, b.result.dtype), b.shape(values), [sizes[i] for i in order])
    updates = transposed(b, wide, inverse(order))
    front = transposed(b, self, dims + rest)
    result = b.op("ScatterND", front, stacked, updates, reduction="add" if accumulate else None)
    return transposed(b, result, inverse(dims + rest))


def inverse(order: list[int]) -> list[int]:
    """The order that undoes `order`."""
    return sorted(range(len(order)), key=order.__getitem__)


@register(aten.slice_scatter.default)
def slice_scatter(
    b: Emission, self: ir.Value, src: ir.Value, dim: int, start: Size | None, end: Size | None, step: int
) -> ir.Value:
    """`self[start:end:step] = src` in a copy."""
    if step != 1:
        return _strided_scatter(b, self, src, dim, start, end, step)
    pieces = [src]
    if not (start is None or (isinstance(start, int) and start == 0)):
        pieces.insert(0, part(b, self, dim, None, start))
    last = part(b, self, dim, end, None)
    if end is not None and not (isinstance(end, int) and end >= 2**62):
        pieces.append(last)
    return pieces[0] if len(pieces) == 1 else b.op("Concat", *pieces, axis=dim)


def _strided_scatter(b: Emission, self: ir.Value, src: ir.Value, dim: int, start: Any, end: Any, step: int) -> ir.Value:
    """Positions are what the same slice takes out of `0, 1, 2, ...`."""
    order = [dim % b.rank(self), *(d for d in range(b.rank(self)) if d != dim % b.rank(self))]
    size = b.sizes.scalar(b.shape(self)[dim])
    positions = part(b, b.op("Range", b.const(0), size, b.const(1)), 0, start, end, step)
    rows = b.op("Unsqueeze", positions, b.axes(-1))
    result = b.op("ScatterND", transposed(b, self, order), rows, transposed(b, src, order))
    return transposed(b, result, inverse(order))


@register(aten.select_scatter.default)
def select_scatter(b: Emission, self: ir.Value, src: ir.Value, dim: int, index: Size) -> ir.Value:
    """`self[index] = src` along a dimension, in a copy."""
    end = None if isinstance(index, int) and index == -1 else index + 1
    return slice_scatter(b, self, b.op("Unsqueeze", src, b.axes(dim)), dim, index, end, 1)


@register(aten.index_copy.default)
def index_copy(b: Emission, self: ir.Value, dim: int, index: ir.Value, source: ir.Value) -> ir.Value:
    """Entries of `source` put at the positions of `index` along one dimension."""
    order = [dim % b.rank(self), *(d for d in range(b.rank(self)) if d != dim % b.rank(self))]
    rows = b.op("Unsqueeze", index, b.axes(-1))
    result = b.op("ScatterND", transposed(b, self, order), rows, transposed(b, source, order))
    return transposed(b, result, inverse(order))


@register(aten.copy.default)
def copy(b: Emission, self: ir.Value, src: ir.Value, non_blocking: bool) -> ir.Value:
    """`src` in the shape and type of `self`."""
    return expanded(b, b.cast(src, b.result.dtype), b.shape(src), b.result.shape)
