"""Entries chosen by index tensors."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from graphwright.lowering.checks import integer_indices
from graphwright.lowering.onnx.shapes import expanded, transposed
from graphwright.lowering.onnx.sizes import Size
from graphwright.lowering.onnx.table import Emission, register

aten = torch.ops.aten


@register(aten.embedding.default)
def embedding(b: Emission, weight: ir.Value, indices: ir.Value, **_: Any) -> ir.Value:
    """Rows of a table."""
    return b.op("Gather", weight, indices, axis=0)


@register(aten.index_select.default)
def index_select(b: Emission, self: ir.Value, dim: int, index: ir.Value) -> ir.Value:
    """Entries along one dimension."""
    return b.op("Gather", self, index, axis=dim)


@register(aten.gather.default)
def gather(b: Emission, self: ir.Value, dim: int, index: ir.Value, sparse_grad: bool) -> ir.Value:
    """One entry per element of `index`."""
    return b.op("GatherElements", self, b.cast(index, torch.int64), axis=dim)


@register(aten.index.Tensor, validate=integer_indices)
def index(b: Emission, self: ir.Value, indices: list[ir.Value | None]) -> ir.Value:
    """`self[i, :, j]`: one index by Gather; several are stacked and looked up together by GatherND."""
    dims = [dim for dim, entry in enumerate(indices) if entry is not None]
    if len(dims) == 1:
        return b.op("Gather", self, indices[dims[0]], axis=dims[0])
    rest = [dim for dim in range(b.rank(self)) if dim not in dims]
    stacked, rank = stacked_indices(b, [entry for entry in indices if entry is not None])
    found = b.op("GatherND", transposed(b, self, dims + rest), stacked)
    return transposed(b, found, result_order(dims, rest, rank))


def stacked_indices(b: Emission, indices: list[ir.Value]) -> tuple[ir.Value, int]:
    """Index tensors broadcast together and stacked along a new last dimension; and their rank."""
    shapes = [b.shape(entry) for entry in indices]
    common = broadcast_shape(shapes)
    parts = []
    for entry, shape in zip(indices, shapes, strict=True):
        wide = expanded(b, b.cast(entry, torch.int64), shape, common)
        parts.append(b.op("Unsqueeze", wide, b.axes(-1)))
    return b.op("Concat", *parts, axis=-1), len(common)


def broadcast_shape(shapes: list[tuple[Size, ...]]) -> list[Size]:
    """Sizes after broadcasting; of two sizes the one that is not 1."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return [
        next((size for size in sizes if not (isinstance(size, int) and size == 1)), 1)
        for sizes in zip(*padded, strict=True)
    ]


def result_order(dims: list[int], rest: list[int], rank: int) -> list[int]:
    """Torch puts the indexed dimensions where they were when they are neighbours, else first."""
    neighbours = dims == list(range(dims[0], dims[0] + len(dims)))
    before = dims[0] if neighbours else 0
    found, others = list(range(rank)), list(range(rank, rank + len(rest)))
    return others[:before] + found + others[before:]


@register(aten.nonzero.default)
def nonzero(b: Emission, self: ir.Value) -> ir.Value:
    """Positions of the elements that are not zero, one per row."""
    return b.op("Transpose", b.op("NonZero", self, dtype=torch.int64), perm=[1, 0])


@register(aten.topk.default)
def topk(b: Emission, self: ir.Value, k: Size, dim: int, largest: bool, sorted: bool) -> list[ir.Value]:
    """The `k` largest (or smallest) elements and their positions."""
    dtypes = [b.fake(self).dtype, torch.int64]
    found = b.ops("TopK", self, b.sizes.size(k), dtypes=dtypes, axis=dim, largest=int(largest), sorted=int(sorted))
    return list(found)


@register(aten.sort.default)
def sort(b: Emission, self: ir.Value, dim: int, descending: bool) -> list[ir.Value]:
    """Elements in order, and their positions."""
    return topk(b, self, b.shape(self)[dim], dim, descending, True)
