"""Parts of tensors: slices, splits, single entries."""

from __future__ import annotations

import sys
from typing import Any

import onnx_ir as ir
import torch

from graphwright.lowering.onnx.sizes import Size
from graphwright.lowering.onnx.table import Emission, register

aten = torch.ops.aten


def part(b: Emission, value: ir.Value, dim: int, start: Size | None, end: Size | None, step: int = 1) -> ir.Value:
    """`value[start:end:step]` along `dim`; None is the beginning or the end."""
    to_end = end is None or (isinstance(end, int) and end >= sys.maxsize)
    if to_end and step == 1 and (start is None or (isinstance(start, int) and start == 0)):
        return value
    limits = b.sizes.size(0 if start is None else start), b.sizes.size(sys.maxsize if to_end else end)  # type: ignore[arg-type]
    return b.op("Slice", value, *limits, b.axes(dim), None if step == 1 else b.const([step]))


@register(aten.slice.Tensor)
def slice_(b: Emission, self: ir.Value, dim: int, start: Any, end: Any, step: int) -> ir.Value:
    """A range of entries; ends beyond the tensor and negative ends mean the same in torch and ONNX."""
    return part(b, self, dim, start, end, step)


@register(aten.narrow.default)
def narrow(b: Emission, self: ir.Value, dim: int, start: Any, length: Any) -> ir.Value:
    """`length` entries from `start`."""
    if isinstance(start, int) and start < 0:
        start = b.shape(self)[dim] + start
    return part(b, self, dim, start, start + length)


@register(aten.select.int)
def select(b: Emission, self: ir.Value, dim: int, index: Size) -> ir.Value:
    """One entry along a dimension."""
    return b.op("Gather", self, b.sizes.scalar(index), axis=dim)


@register(
    aten.split.Tensor, aten.split.sizes, aten.split_with_sizes.default, aten.chunk.default, aten.tensor_split.sections
)
def split(b: Emission, self: ir.Value, dim: int, **_: Any) -> list[ir.Value]:
    """Pieces along a dimension, of the sizes that torch recorded."""
    pieces = b.node.meta["val"]  # type: ignore[union-attr]
    if len(pieces) == 1:
        return [self]
    lengths = b.sizes.vector([piece.shape[dim] for piece in pieces])
    return list(b.ops("Split", self, lengths, dtypes=[self_dtype(b, self)] * len(pieces), axis=dim))


def self_dtype(b: Emission, value: ir.Value) -> torch.dtype:
    """Element type of a program value."""
    return b.fake(value).dtype


@register(aten.unbind.int)
def unbind(b: Emission, self: ir.Value, dim: int) -> list[ir.Value]:
    """Every entry along a dimension."""
    count = len(b.node.meta["val"])  # type: ignore[union-attr]
    return [b.op("Gather", self, b.const(i), axis=dim) for i in range(count)]


@register(aten.flip.default)
def flip(b: Emission, self: ir.Value, dims: list[int]) -> ir.Value:
    """Entries in reverse order."""
    count = len(dims)
    limits = b.const([-1] * count), b.const([-sys.maxsize] * count)
    return b.op("Slice", self, *limits, b.axes(dims), b.const([-1] * count))


@register(aten.roll.default)
def roll(b: Emission, self: ir.Value, shifts: list[int], dims: list[int]) -> ir.Value:
    """Entries moved round; without dimensions, round the flattened tensor."""
    if not dims:
        flat = b.op("Reshape", self, b.const([-1]))
        return b.op("Reshape", _rolled(b, flat, shifts[0], 0), b.op("Shape", self, dtype=torch.int64))
    for shift, dim in zip(shifts, dims, strict=True):
        size = b.shape(self)[dim]
        value = _rolled(b, self, shift % size if isinstance(size, int) and size else shift, dim)
        b.annotate(value, b.fake(self))
        self = value
    return self


def _rolled(b: Emission, value: ir.Value, shift: int, dim: int) -> ir.Value:
    if shift == 0:
        return value
    return b.op("Concat", part(b, value, dim, -shift, None), part(b, value, dim, None, -shift), axis=dim)
