"""Entries chosen or written by index tensors."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.lowering.checks import integer_indices
from graphwright.lowering.openvino.builder import Builder, Size, Value, op, same
from graphwright.lowering.openvino.table import register

aten = torch.ops.aten


@register(aten.embedding.default)
def embedding(b: Builder, weight: Value, indices: Value, **_: Any) -> Any:
    """Rows of a table."""
    return op.gather(weight.out, indices.out, b.const(0))


@register(aten.index_select.default)
def index_select(b: Builder, self: Value, dim: int, index: Value) -> Any:
    """Entries along one dimension."""
    return op.gather(self.out, index.out, b.const(dim % self.rank))


@register(aten.gather.default)
def gather(b: Builder, self: Value, dim: int, index: Value, sparse_grad: bool) -> Any:
    """One entry per element of `index`."""
    return op.gather_elements(self.out, b.cast(index, torch.int64), dim % self.rank)


@register(aten.index.Tensor, validate=integer_indices)
def index(b: Builder, self: Value, indices: list[Value | None]) -> Any:
    """`self[i, :, j]`: one index by Gather; several are stacked and looked up together by GatherND."""
    dims = [dim for dim, entry in enumerate(indices) if entry is not None]
    chosen = [entry for entry in indices if entry is not None]
    if len(dims) == 1:
        return op.gather(self.out, chosen[0].out, b.const(dims[0]))
    rest = [dim for dim in range(self.rank) if dim not in dims]
    stacked, rank = _stacked(b, chosen)
    found = op.gather_nd(b.transpose(self.out, dims + rest), stacked).output(0)
    return b.transpose(found, _order(dims, rest, rank))


def _stacked(b: Builder, indices: list[Value]) -> tuple[Any, int]:
    """Index tensors broadcast together and stacked along a new last dimension; and their rank."""
    rank = max(entry.rank for entry in indices)
    padded = [(1,) * (rank - entry.rank) + entry.shape for entry in indices]
    common: list[Size] = [next((s for s in sizes if not same(s, 1)), 1) for sizes in zip(*padded, strict=True)]
    parts = [b.expand(b.cast(entry, torch.int64), entry.shape, common) for entry in indices]
    return op.concat([b.unsqueeze(part, rank) for part in parts], rank).output(0), rank


def _order(dims: list[int], rest: list[int], rank: int) -> list[int]:
    """Torch puts the indexed dimensions where they were when they are neighbours, else first."""
    neighbours = dims == list(range(dims[0], dims[0] + len(dims)))
    before = dims[0] if neighbours else 0
    found, others = list(range(rank)), list(range(rank, rank + len(rest)))
    return others[:before] + found + others[before:]


@register(aten.nonzero.default)
def nonzero(b: Builder, self: Value) -> Any:
    """Positions of the elements that are not zero, one per row."""
    return b.transpose(op.non_zero(self.out, "i64").output(0), [1, 0])


@register(aten.topk.default)
def topk(b: Builder, self: Value, k: Size, dim: int, largest: bool, sorted: bool) -> list[Any]:
    """The `k` largest (or smallest) elements and their positions."""
    found = op.topk(
        self.out, b.squeezed(b.size(k)), dim % self.rank, "max" if largest else "min", "value", index_element_type="i64"
    )
    return list(found.outputs())


@register(aten.sort.default)
def sort(b: Builder, self: Value, dim: int, descending: bool) -> list[Any]:
    """Elements in order, and their positions."""
    return topk(b, self, self.shape[dim], dim, descending, True)


# ---- writing ---------------------------------------------------------------------------------


@register(aten.scatter.src)
def scatter(b: Builder, self: Value, dim: int, index: Value, src: Value) -> Any:
    """Entries written at positions along a dimension."""
    return op.scatter_elements_update(
        self.out, b.cast(index, torch.int64), b.cast(src, self.dtype), b.const(dim % self.rank)
    )


@register(aten.scatter.value)
def scatter_value(b: Builder, self: Value, dim: int, index: Value, value: Any) -> Any:
    """One value written at positions along a dimension."""
    where = b.cast(index, torch.int64)
    update = op.broadcast(b.scalar(value, self.dtype), b.vector(index.shape)).output(0)
    return op.scatter_elements_update(self.out, where, update, b.const(dim % self.rank))


@register(aten.scatter_add.default)
def scatter_add(b: Builder, self: Value, dim: int, index: Value, src: Value) -> Any:
    """Entries added at positions along a dimension."""
    return op.scatter_elements_update(
        self.out, b.cast(index, torch.int64), b.cast(src, self.dtype), b.const(dim % self.rank), "sum"
    )


@register(aten.index_put.default, validate=integer_indices)
def index_put(b: Builder, self: Value, indices: list[Value | None], values: Value, accumulate: bool) -> Any:
    """Entries written at positions of the first dimensions."""
    chosen = [entry for entry in indices if entry is not None]
    dims = [dim for dim, entry in enumerate(indices) if entry is not None]
    rest = [dim for dim in range(self.rank) if dim not in dims]
    stacked, rank = _stacked(b, chosen)
    base = b.transpose(self.out, dims + rest)
    padded = [(1,) * (rank - entry.rank) + entry.shape for entry in chosen]
    lead: list[Size] = [next((s for s in sizes if not same(s, 1)), 1) for sizes in zip(*padded, strict=True)]
    update = b.expand(b.cast(values, self.dtype), values.shape, [*lead, *(self.shape[dim] for dim in rest)])
    written = op.scatter_nd_update(base, stacked, update, "sum" if accumulate else None).output(0)
    back = [(dims + rest).index(dim) for dim in range(self.rank)]
    return b.transpose(written, back)


@register(aten.index_copy.default)
def index_copy(b: Builder, self: Value, dim: int, index: Value, source: Value) -> Any:
    """Slices written at positions along a dimension."""
    return op.scatter_update(self.out, index.out, b.cast(source, self.dtype), b.const(dim % self.rank))
