"""Copies of tensors with some entries replaced or added to."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.node import bound, is_call, shape_of
from graphwright.lowering.checks import integer_indices
from graphwright.lowering.neuron.builder import Builder, Number, Out, Value, element, is_float, sizes
from graphwright.lowering.neuron.indexing import coordinates, from_end, order, stacked
from graphwright.lowering.neuron.reduce import body
from graphwright.lowering.neuron.slicing import entry
from graphwright.lowering.neuron.table import register
from graphwright.lowering.neuron.xla import hlo

aten = torch.ops.aten


def scattered(b: Builder, out: Out, positions: Out, updates: Out, dims: list[int], adds: bool = False) -> Out:
    """A value with windows written, or added, at positions.

    Args:
        b: The builder.
        out: The value.
        positions: [..., len(dims)]: where along `dims`.
        updates: [..., the other dimensions of `out`].
        dims: The dimensions that are indexed.
        adds: Add, rather than replace.
    """
    rank, lead = len(sizes(out)), len(sizes(positions)) - 1
    numbers = hlo.ScatterDimensionNumbers.get(
        update_window_dims=list(range(lead, lead + rank - len(dims))), inserted_window_dims=dims,
        input_batching_dims=[], scatter_indices_batching_dims=[], scattered_dims_to_operand_dims=dims,
        index_vector_dim=lead,
    )  # fmt: skip
    if not is_float(out) and not adds:
        return _in_halves(b, out, positions, updates, dims)
    kind = element(out)
    made = hlo.ScatterOp([out.type], [out], positions, [b.convert(updates, kind)], numbers)
    body(made.regions[0], [kind, kind], lambda old, new: [hlo.add(old, new) if adds else new])
    return made.results[0]


def _in_halves(b: Builder, out: Out, positions: Out, updates: Out, dims: list[int]) -> Out:
    """Integers written as two floats each, 16 bits in one: devices write no integers, and floats hold 24 bits."""
    kind = element(out)
    found = []
    for shift in (16, 0):
        parts = (b.cast(part, torch.int32) for part in (out, b.convert(updates, kind)))
        halves = (hlo.and_(hlo.shift_right_logical(p, b.like(shift, p)), b.like(0xFFFF, p)) for p in parts)
        old, new = (b.cast(half, torch.float32) for half in halves)
        found.append(b.cast(scattered(b, old, positions, new, dims), torch.int32))
    high, low = found
    return b.convert(hlo.or_(hlo.shift_left(high, b.like(16, high)), low), kind)


def _by_element(b: Builder, self: Value, dim: int, index: Value, updates: Out, adds: bool) -> Out:
    positions = coordinates(b, index.out, dim % self.rank)
    return scattered(b, self.out, positions, updates, list(range(self.rank)), adds)


@register(aten.scatter.src)
def scatter(b: Builder, self: Value, dim: int, index: Value, src: Value) -> Any:
    """Entries written at positions along a dimension."""
    return _by_element(b, self, dim, index, _cut(b, src, index), False)


@register(aten.scatter_add.default)
def scatter_add(b: Builder, self: Value, dim: int, index: Value, src: Value) -> Any:
    """Entries added at positions along a dimension."""
    return _by_element(b, self, dim, index, _cut(b, src, index), True)


@register(aten.scatter.value)
def scatter_value(b: Builder, self: Value, dim: int, index: Value, value: Number) -> Any:
    """One value written at positions along a dimension."""
    updates = b.broadcast(b.scalar(value, self.dtype), index.shape, [])
    return _by_element(b, self, dim, index, updates, False)


def _cut(b: Builder, src: Value, index: Value) -> Out:
    """What of a source is read: torch ignores what is beyond the index."""
    out = src.out
    for axis, size in enumerate(index.shape):
        out = b.slice(out, axis, 0, size)
    return out


@register(aten.index_put.default, validate=integer_indices)
def index_put(b: Builder, self: Value, indices: list[Value | None], values: Value, accumulate: bool) -> Any:
    """`self[indices] = values` in a copy."""
    dims, positions = stacked(b, self, indices)
    rest = [dim for dim in range(self.rank) if dim not in dims]
    lead = sizes(positions)[:-1]
    places = order(dims, rest, len(lead))
    shape = [*lead, *(self.shape[dim] for dim in rest)]
    wide = b.broadcast(b.cast(values, self.dtype), [shape[i] for i in places])
    updates = b.transpose(wide, sorted(range(len(places)), key=places.__getitem__))
    return scattered(b, self.out, positions, updates, dims, accumulate)


@register(aten.index_copy.default, aten.index_add.default)
def index_copy(b: Builder, self: Value, dim: int, index: Value, source: Value, alpha: Number = 1) -> Any:
    """Slices written, or added, at positions along a dimension; a row of positions is one slice."""
    assert b.node is not None
    axis, adds = dim % self.rank, b.node.target is aten.index_add.default
    if not adds and _is_run(bound(b.node)["index"]):
        return _slice_at(b, self.out, b.cast(source, self.dtype), axis, entry(b, b.cast(index, torch.int32), 0, 0))
    positions = b.unsqueeze(from_end(b, b.cast(index, torch.int32), self.shape[axis]), 1)
    updates = b.transpose(b.cast(source, self.dtype), [axis, *(d for d in range(self.rank) if d != axis)])
    if alpha != 1:
        updates = hlo.multiply(updates, b.broadcast(b.scalar(alpha, self.dtype), sizes(updates), []))
    return scattered(b, self.out, positions, updates, [axis], adds)


def _slice_at(b: Builder, out: Out, part: Out, axis: int, start: Out) -> Out:
    """A slice replaced, from a position that is known when the model runs."""
    zero = b.const(0, torch.int32)
    return hlo.dynamic_update_slice(out, part, [start if d == axis else zero for d in range(len(sizes(out)))])


def _is_run(index: Any) -> bool:
    """Whether positions follow one another: there is one, or a position is added to `0, 1, 2, ...`."""
    if not isinstance(index, Node):
        return False
    if shape_of(index) == (1,):
        return True
    return is_call(index, aten.add) and any(is_call(part, aten.arange) for part in bound(index).values())
