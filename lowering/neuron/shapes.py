"""Calls that only move, repeat or relabel elements."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.lowering.common import register_transposes
from graphwright.lowering.neuron.builder import Builder, Out, Value, longs, sizes
from graphwright.lowering.neuron.table import register
from graphwright.lowering.neuron.xla import hlo

aten = torch.ops.aten


@register(
    aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int,
    aten.view_as.default, aten.reshape_as.default, aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim,
    aten.squeeze.dims,
)  # fmt: skip
def view(b: Builder, self: Value, **_: Any) -> Any:
    """The elements in the shape of the result."""
    return b.reshape(self.out, b.result.shape)


register_transposes(register, lambda b, value, order: b.transpose(value.out, order))


@register(aten.expand.default, aten.expand_as.default, aten.broadcast_to.default)
def expand(b: Builder, self: Value, **_: Any) -> Any:
    """Broadcast to the shape of the result."""
    return b.broadcast(self.out, b.result.shape)


@register(aten.repeat.default)
def repeat(b: Builder, self: Value, repeats: list[int]) -> Any:
    """Tiled along each dimension."""
    shape = [1] * (len(repeats) - self.rank) + list(self.shape)
    pairs = [size for pair in zip(repeats, shape, strict=True) for size in pair]
    wide = b.broadcast(b.reshape(self.out, shape), pairs, range(1, len(pairs), 2))
    return b.reshape(wide, b.result.shape)


@register(aten.repeat_interleave.self_int)
def repeat_interleave(b: Builder, self: Value, repeats: int, dim: int | None, output_size: Any = None) -> Any:
    """Each entry several times."""
    source = b.reshape(self.out, [-1]) if dim is None else self.out
    axis, shape = (0 if dim is None else dim % self.rank), sizes(source)
    pairs = [*shape[: axis + 1], repeats, *shape[axis + 1 :]]
    wide = b.broadcast(source, pairs, [d for d in range(len(pairs)) if d != axis + 1])
    return b.reshape(wide, b.result.shape)


@register(aten.cat.default, aten.concat.default)
def cat(b: Builder, tensors: list[Value], dim: int) -> Any:
    """Tensors one after another; torch lets empty ones of rank 1 take part."""
    axis = dim % b.result.dim()
    parts = [t for t in tensors if t.rank == b.result.dim() and t.shape[axis] != 0]
    return b.concat([b.cast(part, b.result.dtype) for part in parts or tensors[:1]], axis)


@register(aten.stack.default)
def stack(b: Builder, tensors: list[Value], dim: int) -> Any:
    """Tensors along a new dimension."""
    axis = dim % (tensors[0].rank + 1)
    return b.concat([b.unsqueeze(b.cast(t, b.result.dtype), axis) for t in tensors], axis)


def _triangle(b: Builder, self: Value, diagonal: int, direction: str) -> Out:
    """Zero on one side of a diagonal."""
    shape = self.shape[-2:]
    rows, columns = b.iota(shape, 0, torch.int32), b.iota(shape, 1, torch.int32)
    kept = b.compare(direction, columns, hlo.add(rows, b.like(diagonal, rows)))
    return b.select(kept, self.out, b.const(0, self.dtype))


@register(aten.tril.default)
def tril(b: Builder, self: Value, diagonal: int) -> Any:
    """Zero above a diagonal."""
    return _triangle(b, self, diagonal, "LE")


@register(aten.triu.default)
def triu(b: Builder, self: Value, diagonal: int) -> Any:
    """Zero below a diagonal."""
    return _triangle(b, self, diagonal, "GE")


def _ends(pad: list[int], rank: int) -> tuple[list[int], list[int]]:
    """Padding in front and at the end of each dimension; torch counts pairs from the last dimension."""
    low, high = [0] * rank, [0] * rank
    for i in range(len(pad) // 2):
        low[-1 - i], high[-1 - i] = pad[2 * i], pad[2 * i + 1]
    return low, high


@register(aten.pad.default, aten.constant_pad_nd.default)
def pad(b: Builder, self: Value, pad: list[int], value: Any, mode: str = "constant") -> Any:
    """Entries added at both ends of the last dimensions."""
    low, high = _ends(pad, self.rank)
    if mode == "constant":
        return b.pad(self.out, low, high, value or 0)
    out = self.out
    for axis in range(self.rank):
        for part in ("reflect", "circular", "replicate"):
            out = _extended(b, out, axis, low[axis], high[axis], part) if part == mode else out
    return out


def _extended(b: Builder, out: Out, axis: int, low: int, high: int, mode: str) -> Out:
    """Entries of a value itself added at both ends of a dimension."""
    size = sizes(out)[axis]
    if mode == "circular":
        front, back = b.slice(out, axis, size - low, size), b.slice(out, axis, 0, high)
    elif mode == "reflect":
        front = hlo.reverse(b.slice(out, axis, 1, low + 1), longs([axis]))
        back = hlo.reverse(b.slice(out, axis, size - 1 - high, size - 1), longs([axis]))
    else:
        front, back = (_repeated(b, out, axis, at, count) for at, count in ((0, low), (size - 1, high)))
    parts = [part for part, count in ((front, low), (out, 1), (back, high)) if count]
    return b.concat(parts, axis)


def _repeated(b: Builder, out: Out, axis: int, at: int, count: int) -> Out:
    entry = b.slice(out, axis, at, at + 1)
    return b.broadcast(entry, [count if i == axis else size for i, size in enumerate(sizes(entry))])


@register(aten.flip.default)
def flip(b: Builder, self: Value, dims: list[int]) -> Any:
    """Elements in the opposite order along some dimensions."""
    return hlo.reverse(self.out, longs(sorted(dim % self.rank for dim in dims)))


@register(aten.roll.default)
def roll(b: Builder, self: Value, shifts: list[int], dims: list[int]) -> Any:
    """Elements moved along some dimensions; what leaves at one end comes back at the other."""
    if not dims:
        return b.reshape(_rolled(b, b.reshape(self.out, [self.fake.numel()]), shifts[0], 0), self.shape)
    out = self.out
    for shift, dim in zip(shifts, dims, strict=True):
        out = _rolled(b, out, shift, dim % self.rank)
    return out


def _rolled(b: Builder, out: Out, shift: int, axis: int) -> Out:
    size = sizes(out)[axis]
    cut = -shift % size if size else 0
    return b.concat([b.slice(out, axis, cut, size), b.slice(out, axis, 0, cut)], axis) if cut else out


@register(aten.pixel_shuffle.default)
def pixel_shuffle(b: Builder, self: Value, upscale_factor: int) -> Any:
    """Channels moved into finer rows and columns."""
    r, (c, h, w) = upscale_factor, self.shape[-3:]
    lead = list(self.shape[:-3])
    k = len(lead)
    parts = b.reshape(self.out, [*lead, c // r**2, r, r, h, w])
    order = [*range(k), k, k + 3, k + 1, k + 4, k + 2]
    return b.reshape(b.transpose(parts, order), b.result.shape)
