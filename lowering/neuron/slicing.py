"""Parts of tensors."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.lowering.neuron.builder import Builder, Out, Value, sizes
from graphwright.lowering.neuron.table import register

aten = torch.ops.aten


def limits(size: int, start: int | None, end: int | None) -> tuple[int, int]:
    """The bounds of a slice as positions; negative ones count from the end."""
    begin, stop, _ = slice(start, end).indices(size)
    return begin, max(begin, stop)


@register(aten.slice.Tensor)
def slice_tensor(b: Builder, self: Value, dim: int, start: Any, end: Any, step: int) -> Any:
    """Every `step`-th element from `start` to `end`."""
    begin, stop = limits(self.shape[dim], start, end)
    return b.slice(self.out, dim % self.rank, begin, stop, step)


@register(aten.narrow.default)
def narrow(b: Builder, self: Value, dim: int, start: int, length: int) -> Any:
    """`length` elements from `start` on."""
    begin = start % self.shape[dim] if start < 0 else start
    return b.slice(self.out, dim % self.rank, begin, begin + length)


@register(aten.select.int)
def select(b: Builder, self: Value, dim: int, index: int) -> Any:
    """One element along a dimension, without the dimension."""
    return entry(b, self.out, dim % self.rank, index % self.shape[dim])


def entry(b: Builder, out: Out, axis: int, index: int) -> Out:
    """One element along a dimension, without the dimension."""
    shape = sizes(out)
    return b.reshape(b.slice(out, axis, index, index + 1), [*shape[:axis], *shape[axis + 1 :]])


@register(
    aten.split.Tensor, aten.split.sizes, aten.split_with_sizes.default, aten.chunk.default,
    aten.tensor_split.sections,
)  # fmt: skip
def split(b: Builder, self: Value, dim: int = 0, **_: Any) -> list[Any]:
    """Parts along a dimension, of the sizes that torch recorded."""
    assert b.node is not None
    parts, start, axis = [], 0, dim % self.rank
    for fake in b.node.meta["val"]:
        parts.append(b.slice(self.out, axis, start, start + fake.shape[axis]))
        start += fake.shape[axis]
    return parts


@register(aten.unbind.int)
def unbind(b: Builder, self: Value, dim: int) -> list[Any]:
    """The elements along a dimension."""
    return [entry(b, self.out, dim % self.rank, i) for i in range(self.shape[dim])]


@register(aten.unfold.default)
def unfold(b: Builder, self: Value, dimension: int, size: int, step: int) -> Any:
    """Windows along a dimension, as a new last dimension."""
    axis, length = dimension % self.rank, self.shape[dimension]
    count = (length - size) // step + 1
    parts = [b.slice(self.out, axis, i, i + (count - 1) * step + 1, step) for i in range(size)]
    return b.concat([b.unsqueeze(part, self.rank) for part in parts], self.rank)


@register(aten.diagonal.default)
def diagonal(b: Builder, self: Value, offset: int, dim1: int, dim2: int) -> Any:
    """The diagonal of two dimensions, as the last dimension."""
    first, second = dim1 % self.rank, dim2 % self.rank
    rest = [d for d in range(self.rank) if d not in (first, second)]
    length = int(b.result.shape[-1])
    out = b.transpose(self.out, [*rest, first, second])
    rows, columns = max(-offset, 0), max(offset, 0)
    cells = [entry(b, entry(b, out, len(rest), rows + i), len(rest), columns + i) for i in range(length)]
    return b.concat([b.unsqueeze(cell, len(rest)) for cell in cells], len(rest))


@register(aten.slice_scatter.default)
def slice_scatter(b: Builder, self: Value, src: Value, dim: int, start: Any, end: Any, step: int) -> Any:
    """A tensor with a slice of it replaced."""
    axis = dim % self.rank
    begin, stop = limits(self.shape[axis], start, end)
    return written(b, self.out, b.cast(src, self.dtype), axis, begin, stop, step)


@register(aten.select_scatter.default)
def select_scatter(b: Builder, self: Value, src: Value, dim: int, index: int) -> Any:
    """A tensor with one element along a dimension replaced."""
    axis = dim % self.rank
    at = index % self.shape[axis]
    return written(b, self.out, b.unsqueeze(b.cast(src, self.dtype), axis), axis, at, at + 1)


def written(b: Builder, out: Out, part: Out, axis: int, start: int, stop: int, step: int = 1) -> Out:
    """A value with every `step`-th entry of a range replaced."""
    size, count = sizes(out)[axis], sizes(part)[axis]
    if not count:
        return out
    if step == 1:
        parts = [b.slice(out, axis, 0, start), part, b.slice(out, axis, stop, size)]
        return b.concat([p for p in parts if sizes(p)[axis]], axis)
    low, high, inner = [0] * len(sizes(out)), [0] * len(sizes(out)), [0] * len(sizes(out))
    low[axis], inner[axis] = start, step - 1
    high[axis] = size - start - ((count - 1) * step + 1)
    mask = b.pad(b.like(1, b.cast(part, torch.bool)), low, high, 0, inner)
    return b.select(mask, b.pad(part, low, high, 0, inner), out)
