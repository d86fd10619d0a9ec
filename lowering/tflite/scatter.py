"""Entries written at positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.fx import Node

from graphwright.ir.node import bound
from graphwright.lowering.checks import integer_indices
from graphwright.lowering.support import Support
from graphwright.lowering.tflite.builder import Builder
from graphwright.lowering.tflite.elementwise import add
from graphwright.lowering.tflite.graph import Value
from graphwright.lowering.tflite.indexing import stacked, wrapped
from graphwright.lowering.tflite.shapes import limits
from graphwright.lowering.tflite.table import register

aten = torch.ops.aten


def written(b: Builder, self: Value, positions: Value, update: Value, *, add: bool) -> Value:
    """Slices of `self` replaced, or added to, at positions of its first dimensions.

    LiteRT has no scatter into a given tensor: the entries are scattered into zeros, which takes the sum of those that
    fall on one position, and `self` is kept where nothing was written.
    """
    scattered = b.op("SCATTER_ND", [positions, update, b.const(self.shape)], self.shape, self.dtype)
    if add:
        return b.binary("ADD", self, scattered)
    lead = positions.shape[-1]
    ones = b.const(np.ones(positions.shape[:-1]), "float32")
    marks = b.op("SCATTER_ND", [positions, ones, b.const(self.shape[:lead])], self.shape[:lead], "float32")
    hit = b.binary("GREATER", marks, b.const(0.0, "float32"), "bool")
    return b.select(b.reshape(hit, [*self.shape[:lead], *[1] * (self.rank - lead)]), scattered, self)


@register(aten.index_put.default, validate=integer_indices)
def index_put(b: Builder, self: Value, indices: list[Value | None], values: Value, accumulate: bool) -> Value:
    """Entries written at positions of some dimensions."""
    dims = [dim for dim, entry in enumerate(indices) if entry is not None]
    chosen = [wrapped(b, entry, self.shape[dim]) for dim, entry in enumerate(indices) if entry is not None]
    rest = [dim for dim in range(self.rank) if dim not in dims]
    positions, base = stacked(b, chosen), b.transpose(self, dims + rest)
    shape = [*positions.shape[:-1], *base.shape[len(dims) :]]
    made = written(b, base, positions, b.expand(b.cast(values, self.dtype), shape), add=accumulate)
    return b.transpose(made, [(dims + rest).index(dim) for dim in range(self.rank)])


def _written_last(node: Node) -> Support:
    """Whether nobody reads an input any more once it is written to: then a new value will do."""
    source = bound(node)["self"]
    while isinstance(source, Node):
        if any(user > node for user in source.users):
            return Support.no("an input that is read again after it was written", remedy="return the new value")
        source = None if source.op == "placeholder" else source.all_input_nodes[0]
    return Support.yes()


@register(aten.add_.Tensor, validate=_written_last)
def add_in_place(b: Builder, self: Value, other: Any, alpha: Any) -> Value:
    """A sum written to an input."""
    return add(b, self, other, alpha)


@register(aten.index_copy.default)
@register(aten.index_copy_.default, validate=_written_last)
def index_copy(b: Builder, self: Value, dim: int, index: Value, source: Value) -> Value:
    """Slices written at positions along a dimension; those in a row are one update of the runtime's own."""
    axis = dim % self.rank
    update = b.cast(source, self.dtype)
    start = _start(b, index)
    if start is not None:
        return updated(b, self, update, axis, start)
    order = [axis, *(i for i in range(self.rank) if i != axis)]
    positions = b.reshape(b.cast(index, "int32"), [index.size, 1])
    made = written(b, b.transpose(self, order), positions, b.transpose(update, order), add=False)
    return b.transpose(made, [order.index(i) for i in range(self.rank)])


def _start(b: Builder, index: Value) -> Value | None:
    """The first of positions that follow each other: one alone, constants, or constants added to a number."""
    if index.size == 1:
        return index
    if index.data is not None:
        return b.const(index.data[:1]) if _in_a_row(index.data) else None
    producer = b.producers.get(index)
    if producer is None or producer.code != "ADD":
        return None
    parts = [value for value in producer.inputs if value is not None]
    row = next((value for value in parts if value.data is not None and _in_a_row(value.data)), None)
    first = next((value for value in parts if value.size == 1), None)
    if row is None or row.data is None or first is None:
        return None
    return b.binary("ADD", b.reshape(first, [1]), b.const(row.data.reshape(-1)[:1], first.dtype))


def _in_a_row(positions: np.ndarray) -> bool:
    return positions.size > 1 and bool((np.diff(positions.reshape(-1)) == 1).all())


def updated(b: Builder, self: Value, update: Value, axis: int, start: Value) -> Value:
    """A block of `self` replaced, from a position along one dimension on."""
    zeros = [b.const([0]) for _ in range(self.rank)]
    zeros[axis] = b.reshape(b.cast(start, "int32"), [1])
    begin = b.concat(zeros, 0)
    return b.op("DYNAMIC_UPDATE_SLICE", [self, update, begin], self.shape, self.dtype)


@register(aten.slice_scatter.default)
def slice_scatter(
    b: Builder, self: Value, src: Value, dim: int, start: int | None, end: int | None, step: int
) -> Value:
    """A tensor with a slice of it replaced."""
    axis = dim % self.rank
    low, high = limits(start, end, self.shape[axis])
    update = b.cast(src, self.dtype)
    if step == 1:
        parts = [b.slice(self, axis, 0, low), update, b.slice(self, axis, high, self.shape[axis])]
        return b.concat([part for part in parts if part.shape[axis]], axis)
    return index_copy(b, self, dim, b.const(np.arange(low, high, step)), src)


@register(aten.select_scatter.default)
def select_scatter(b: Builder, self: Value, src: Value, dim: int, index: int) -> Value:
    """A tensor with one element along a dimension replaced."""
    axis = dim % self.rank
    position = index % self.shape[axis]
    shape = [1 if i == axis else size for i, size in enumerate(self.shape)]
    return slice_scatter(b, self, b.reshape(src, shape), dim, position, position + 1, 1)


def _scattered(b: Builder, self: Value, dim: int, index: Value, update: Value, add: bool) -> Value:
    grids = np.indices(index.shape)
    axis = dim % self.rank
    chosen = [index if i == axis else b.const(grids[i]) for i in range(self.rank)]
    return written(b, self, stacked(b, chosen), update, add=add)


@register(aten.scatter.src)
def scatter(b: Builder, self: Value, dim: int, index: Value, src: Value) -> Value:
    """Entries written at positions along a dimension."""
    update = b.cast(src, self.dtype)
    for i, size in enumerate(index.shape):
        update = b.slice(update, i, 0, size)
    return _scattered(b, self, dim, index, update, False)


@register(aten.scatter.value)
def scatter_value(b: Builder, self: Value, dim: int, index: Value, value: Any) -> Value:
    """One value written at positions along a dimension."""
    return _scattered(b, self, dim, index, b.const(np.full(index.shape, value), self.dtype), False)


@register(aten.scatter_add.default)
def scatter_add(b: Builder, self: Value, dim: int, index: Value, src: Value) -> Value:
    """Entries added at positions along a dimension."""
    update = b.cast(src, self.dtype)
    for i, size in enumerate(index.shape):
        update = b.slice(update, i, 0, size)
    return _scattered(b, self, dim, index, update, True)
