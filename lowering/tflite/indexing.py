"""Entries chosen by index tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from graphwright.lowering.checks import integer_indices
from graphwright.lowering.tflite.builder import Builder
from graphwright.lowering.tflite.graph import Value
from graphwright.lowering.tflite.table import register

aten = torch.ops.aten


def wrapped(b: Builder, indices: Value, size: int) -> Value:
    """Indices with those below zero counted from the end."""
    if indices.data is not None:
        return b.const(np.where(indices.data < 0, indices.data + size, indices.data), "int32")
    indices = b.cast(indices, "int32")
    negative = b.binary("LESS", indices, b.const(0), "bool")
    return b.select(negative, b.binary("ADD", indices, b.const(size)), indices)


@register(aten.embedding.default)
def embedding(b: Builder, weight: Value, indices: Value, **_: Any) -> Value:
    """Rows of a table."""
    flat = b.reshape(b.cast(indices, "int32"), [indices.size])
    rows = b.op("EMBEDDING_LOOKUP", [flat, weight], [indices.size, *weight.shape[1:]], weight.dtype)
    return b.reshape(rows, [*indices.shape, *weight.shape[1:]])


@register(aten.index_select.default)
def index_select(b: Builder, self: Value, dim: int, index: Value) -> Value:
    """Entries along one dimension."""
    return b.gather(self, b.cast(index, "int32"), dim % self.rank)


@register(aten.gather.default)
def gather(b: Builder, self: Value, dim: int, index: Value, sparse_grad: bool) -> Value:
    """One entry per element of `index`: along the last dimension, with all others as batches."""
    axis = dim % self.rank
    order = [i for i in range(self.rank) if i != axis] + [axis]
    table, chosen = b.transpose(self, order), b.transpose(b.cast(index, "int32"), order)
    for i in range(self.rank - 1):
        table = b.slice(table, i, 0, chosen.shape[i])
    rows = int(np.prod(chosen.shape[:-1], dtype=np.int64))
    table, flat = b.reshape(table, [rows, table.shape[-1]]), b.reshape(chosen, [rows, chosen.shape[-1]])
    found = b.op("GATHER", [table, flat], flat.shape, self.dtype, axis=1, batchDims=1)
    return b.transpose(b.reshape(found, chosen.shape), [order.index(i) for i in range(self.rank)])


@register(aten.index.Tensor, validate=integer_indices)
def index(b: Builder, self: Value, indices: list[Value | None]) -> Value:
    """`self[i, :, j]`: one index by GATHER; several are stacked and looked up together by GATHER_ND."""
    dims = [dim for dim, entry in enumerate(indices) if entry is not None]
    chosen = [wrapped(b, entry, self.shape[dim]) for dim, entry in enumerate(indices) if entry is not None]
    if len(dims) == 1:
        return b.gather(self, chosen[0], dims[0])
    rest = [dim for dim in range(self.rank) if dim not in dims]
    positions = stacked(b, chosen)
    moved = b.transpose(self, dims + rest)
    shape = [*positions.shape[:-1], *moved.shape[len(dims) :]]
    found = b.op("GATHER_ND", [moved, positions], shape, self.dtype)
    return b.transpose(found, _order(dims, rest, positions.rank - 1))


def stacked(b: Builder, indices: list[Value]) -> Value:
    """Index tensors broadcast together and stacked along a new last dimension."""
    shape = np.broadcast_shapes(*(entry.shape for entry in indices))
    parts = [b.reshape(b.expand(b.cast(entry, "int32"), shape), [*shape, 1]) for entry in indices]
    if all(part.data is not None for part in parts):
        return b.const(np.concatenate([part.data for part in parts if part.data is not None], -1))
    return b.concat(parts, len(shape))


def _order(dims: list[int], rest: list[int], rank: int) -> list[int]:
    """Torch puts the indexed dimensions where they were when they are neighbours, else first."""
    neighbours = dims == list(range(dims[0], dims[0] + len(dims)))
    before = dims[0] if neighbours else 0
    found, others = list(range(rank)), list(range(rank, rank + len(rest)))
    return others[:before] + found + others[before:]


@register(aten.topk.default)
def topk(b: Builder, self: Value, k: int, dim: int, largest: bool, sorted: bool) -> list[Value]:
    """The `k` largest (or smallest) elements and their positions."""
    assert b.node is not None
    axis = dim % self.rank
    order = [i for i in range(self.rank) if i != axis] + [axis]
    moved = b.transpose(self, order)
    moved = moved if largest else b.unary("NEG", moved)
    shape = (*moved.shape[:-1], k)
    values, positions = b.ops("TOPK_V2", [moved, b.const(k)], [(shape, self.dtype), (shape, "int32")])
    values = values if largest else b.unary("NEG", values)
    back = [order.index(i) for i in range(self.rank)]
    dtype = str(b.node.meta["val"][1].dtype).removeprefix("torch.")
    return [b.transpose(values, back), b.cast(b.transpose(positions, back), dtype)]


@register(aten.sort.default)
def sort(b: Builder, self: Value, dim: int, descending: bool) -> list[Value]:
    """Elements in order, and their positions."""
    return topk(b, self, self.shape[dim], dim, descending, True)
