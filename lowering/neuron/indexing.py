"""Entries chosen by index tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphwright.lowering.checks import integer_indices
from graphwright.lowering.neuron.builder import Builder, Out, Value, longs, sizes
from graphwright.lowering.neuron.table import register
from graphwright.lowering.neuron.xla import hlo

aten = torch.ops.aten


def taken(b: Builder, out: Out, index: Out, axis: int) -> Out:
    """Entries along one dimension; the dimensions of `index` take its place."""
    shape, rank = sizes(out), len(sizes(index))
    rest = [d for d in range(len(shape)) if d != axis]
    offsets = [d if d < axis else d + rank - 1 for d in rest]
    numbers = hlo.GatherDimensionNumbers.get(
        offset_dims=offsets, collapsed_slice_dims=[axis], operand_batching_dims=[], start_indices_batching_dims=[],
        start_index_map=[axis], index_vector_dim=rank,
    )  # fmt: skip
    return hlo.gather(out, index, numbers, longs([1 if d == axis else size for d, size in enumerate(shape)]))


@register(aten.embedding.default)
def embedding(b: Builder, weight: Value, indices: Value, **_: Any) -> Any:
    """Rows of a table."""
    return b.cast(taken(b, weight.out, indices.out, 0), b.result.dtype)


@register(aten.index_select.default)
def index_select(b: Builder, self: Value, dim: int, index: Value) -> Any:
    """Entries along one dimension."""
    found = taken(b, self.out, b.reshape(index.out, [index.fake.numel()]), dim % max(self.rank, 1))
    return b.reshape(found, b.result.shape)


def from_end(b: Builder, index: Out, size: int) -> Out:
    """Positions; negative ones count from the end."""
    return b.select(b.compare("LT", index, b.like(0, index)), hlo.add(index, b.like(size, index)), index)


def stacked(b: Builder, self: Value, indices: Sequence[Value | None]) -> tuple[list[int], Out]:
    """The indexed dimensions, and their indices broadcast together along a new last dimension."""
    given = [(dim, entry) for dim, entry in enumerate(indices) if entry is not None]
    together = b.together(*(from_end(b, b.cast(entry, torch.int32), self.shape[dim]) for dim, entry in given))
    rank = len(sizes(together[0]))
    return [dim for dim, _ in given], b.concat([b.unsqueeze(part, rank) for part in together], rank)


@register(aten.index.Tensor, validate=integer_indices)
def index(b: Builder, self: Value, indices: list[Value | None]) -> Any:
    """`self[i, :, j]`: torch puts what is found where the indexed dimensions were if they are neighbours, or first."""
    dims, positions = stacked(b, self, indices)
    rest = [dim for dim in range(self.rank) if dim not in dims]
    rank = len(sizes(positions)) - 1
    numbers = hlo.GatherDimensionNumbers.get(
        offset_dims=list(range(rank, rank + len(rest))), collapsed_slice_dims=dims, operand_batching_dims=[],
        start_indices_batching_dims=[], start_index_map=dims, index_vector_dim=rank,
    )  # fmt: skip
    widths = [1 if dim in dims else size for dim, size in enumerate(self.shape)]
    found = hlo.gather(self.out, positions, numbers, longs(widths))
    return b.transpose(found, order(dims, rest, rank))


def order(dims: list[int], rest: list[int], rank: int) -> list[int]:
    """Where the dimensions of a result come from: `rank` of the indices, then the rest."""
    neighbours = dims == list(range(dims[0], dims[0] + len(dims)))
    before = dims[0] if neighbours else 0
    found, others = list(range(rank)), list(range(rank, rank + len(rest)))
    return others[:before] + found + others[before:]


def coordinates(b: Builder, index: Out, axis: int) -> Out:
    """For each element of `index`, where it points to: its own place, but `index` along one dimension."""
    shape = sizes(index)
    axes = [b.cast(index, torch.int32) if d == axis else b.iota(shape, d, torch.int32) for d in range(len(shape))]
    return b.concat([b.unsqueeze(part, len(shape)) for part in axes], len(shape))


@register(aten.gather.default)
def gather(b: Builder, self: Value, dim: int, index: Value, sparse_grad: bool) -> Any:
    """One entry per element of `index`."""
    dims = list(range(self.rank))
    numbers = hlo.GatherDimensionNumbers.get(
        offset_dims=[], collapsed_slice_dims=dims, operand_batching_dims=[], start_indices_batching_dims=[],
        start_index_map=dims, index_vector_dim=self.rank,
    )  # fmt: skip
    return hlo.gather(self.out, coordinates(b, index.out, dim % self.rank), numbers, longs([1] * self.rank))
