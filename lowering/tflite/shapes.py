"""Calls that only move, repeat or take elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.fx import Node

from graphwright.ir.node import bound
from graphwright.lowering.common import register_transposes
from graphwright.lowering.support import Support
from graphwright.lowering.tflite.builder import Builder
from graphwright.lowering.tflite.graph import Value
from graphwright.lowering.tflite.table import register

aten = torch.ops.aten


@register(
    aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int,
    aten.view_as.default, aten.reshape_as.default, aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim,
    aten.squeeze.dims,
)  # fmt: skip
def view(b: Builder, self: Value, **_: Any) -> Value:
    """The elements in the shape of the result."""
    return b.reshape(self, b.shape)


register_transposes(register, lambda b, value, order: b.transpose(value, order))


@register(aten.expand.default, aten.expand_as.default, aten.broadcast_to.default)
def expand(b: Builder, self: Value, **_: Any) -> Value:
    """Broadcast to the shape of the result."""
    return b.expand(self, b.shape)


@register(aten.repeat.default)
def repeat(b: Builder, self: Value, repeats: list[int]) -> Value:
    """Tiled along each dimension."""
    padded = b.reshape(self, (1,) * (len(repeats) - self.rank) + self.shape)
    return b.op("TILE", [padded, b.const(list(repeats))], b.shape, self.dtype)


@register(aten.repeat_interleave.self_int)
def repeat_interleave(b: Builder, self: Value, repeats: int, dim: int | None, **_: Any) -> Value:
    """Each entry along a dimension several times."""
    flat = self if dim is not None else b.reshape(self, [self.size])
    axis = (dim or 0) % flat.rank
    return b.gather(flat, b.const(np.repeat(np.arange(flat.shape[axis], dtype=np.int32), int(repeats))), axis)


@register(aten.cat.default, aten.concat.default)
def cat(b: Builder, tensors: list[Value], dim: int) -> Value:
    """Tensors one after another; torch lets empty ones of rank 1 take part."""
    parts = [t for t in tensors if t.rank == len(b.shape) and t.shape[dim]]
    return b.concat([b.cast(part, b.dtype) for part in parts or tensors[:1]], dim % max(len(b.shape), 1))


@register(aten.stack.default)
def stack(b: Builder, tensors: list[Value], dim: int) -> Value:
    """Tensors along a new dimension."""
    axis = dim % (tensors[0].rank + 1)
    shape = [*tensors[0].shape[:axis], 1, *tensors[0].shape[axis:]]
    return b.concat([b.reshape(b.cast(t, b.dtype), shape) for t in tensors], axis)


def _triangle(b: Builder, self: Value, diagonal: int, lower: bool) -> Value:
    ones = np.ones(self.shape[-2:], bool)
    kept = np.tril(ones, diagonal) if lower else np.triu(ones, diagonal)
    return b.select(b.const(kept, "bool"), self, b.const(0, self.dtype))


@register(aten.tril.default)
def tril(b: Builder, self: Value, diagonal: int) -> Value:
    """Zero above a diagonal."""
    return _triangle(b, self, diagonal, True)


@register(aten.triu.default)
def triu(b: Builder, self: Value, diagonal: int) -> Value:
    """Zero below a diagonal."""
    return _triangle(b, self, diagonal, False)


def padded(b: Builder, value: Value, pairs: list[tuple[int, int]], filler: Any = 0) -> Value:
    """A value with entries added before and after along each dimension; a negative number takes entries away."""
    for dim, (before, after) in enumerate(pairs):
        if before < 0 or after < 0:
            value = b.slice(value, dim, max(-before, 0), value.shape[dim] - max(-after, 0))
    pairs = [(max(before, 0), max(after, 0)) for before, after in pairs]
    if not any(before or after for before, after in pairs):
        return value
    shape = [before + size + after for size, (before, after) in zip(value.shape, pairs, strict=True)]
    if filler == 0 and value.dtype != "bool":
        return b.op("PAD", [value, b.const(pairs)], shape, value.dtype)
    if value.dtype == "bool":
        return b.cast(padded(b, b.cast(value, "int32"), pairs, int(filler)), "bool")
    return b.op("PADV2", [value, b.const(pairs), b.scalar(filler, value.dtype)], shape, value.dtype)


def _pad_mode(node: Node) -> Support:
    mode = bound(node).get("mode", "constant")
    if mode in ("constant", "reflect", "replicate"):
        return Support.yes()
    return Support.no(f"LiteRT's PADV2 and MIRROR_PAD have no mode '{mode}'")


@register(aten.pad.default, aten.constant_pad_nd.default, validate=_pad_mode)
def pad(b: Builder, self: Value, pad: list[int], value: Any, mode: str = "constant") -> Value:
    """Elements added at both ends of the last dimensions; torch counts pairs from the last dimension."""
    pairs = [(0, 0)] * (self.rank - len(pad) // 2)
    pairs += [(pad[2 * i], pad[2 * i + 1]) for i in reversed(range(len(pad) // 2))]
    if mode == "constant":
        return padded(b, self, pairs, value or 0)
    for dim, (before, after) in enumerate(pairs):
        if before or after:
            positions = np.arange(-before, self.shape[dim] + after)
            last = self.shape[dim] - 1
            clipped = np.clip(positions, 0, last)
            mirrored = last - np.abs(last - np.abs(positions))
            self = b.gather(self, b.const(clipped if mode == "replicate" else mirrored), dim)
    return self


@register(aten.flip.default)
def flip(b: Builder, self: Value, dims: list[int]) -> Value:
    """Elements in the opposite order along some dimensions."""
    for dim in dims:
        self = b.gather(self, b.const(np.arange(self.shape[dim])[::-1]), dim % self.rank)
    return self


@register(aten.roll.default)
def roll(b: Builder, self: Value, shifts: list[int], dims: list[int]) -> Value:
    """Elements moved along some dimensions; what leaves at one end comes back at the other."""
    if not dims:
        return b.reshape(_rolled(b, b.reshape(self, [self.size]), shifts[0], 0), self.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        self = _rolled(b, self, shift, dim % self.rank)
    return self


def _rolled(b: Builder, value: Value, shift: int, dim: int) -> Value:
    size = value.shape[dim]
    cut = -shift % size if size else 0
    return b.concat([b.slice(value, dim, cut, size), b.slice(value, dim, 0, cut)], dim) if cut else value


# ---- parts -----------------------------------------------------------------------------------


def limits(start: int | None, end: int | None, size: int) -> tuple[int, int]:
    """Limits of a slice as torch reads them, within 0 and `size`."""
    low, high, _ = slice(start, end).indices(size)
    return low, max(low, high)


@register(aten.slice.Tensor)
def slice_tensor(b: Builder, self: Value, dim: int, start: int | None, end: int | None, step: int) -> Value:
    """Every `step`-th element from `start` to `end`."""
    axis = dim % self.rank
    return b.slice(self, axis, *limits(start, end, self.shape[axis]), step)


@register(aten.narrow.default)
def narrow(b: Builder, self: Value, dim: int, start: int, length: int) -> Value:
    """`length` elements from `start` on."""
    axis = dim % self.rank
    begin = start % self.shape[axis] if start < 0 else start
    return b.slice(self, axis, begin, begin + length)


@register(aten.select.int)
def select(b: Builder, self: Value, dim: int, index: int) -> Value:
    """One element along a dimension, without the dimension."""
    axis = dim % self.rank
    position = index % self.shape[axis]
    return b.reshape(b.slice(self, axis, position, position + 1), b.shape)


@register(
    aten.split.Tensor, aten.split.sizes, aten.split_with_sizes.default, aten.chunk.default,
    aten.tensor_split.sections,
)  # fmt: skip
def split(b: Builder, self: Value, dim: int = 0, **_: Any) -> list[Value]:
    """Parts along a dimension, of the sizes of the results."""
    assert b.node is not None
    axis, parts, start = dim % self.rank, [], 0
    for fake in b.node.meta["val"]:
        parts.append(b.slice(self, axis, start, start + int(fake.shape[axis])))
        start += int(fake.shape[axis])
    return parts


@register(aten.unbind.int)
def unbind(b: Builder, self: Value, dim: int) -> list[Value]:
    """The elements along a dimension."""
    axis = dim % self.rank
    shape = [size for i, size in enumerate(self.shape) if i != axis]
    return [b.reshape(b.slice(self, axis, i, i + 1), shape) for i in range(self.shape[axis])]


@register(aten.unfold.default)
def unfold(b: Builder, self: Value, dimension: int, size: int, step: int) -> Value:
    """Windows of `size` entries, each `step` after the last, along a new last dimension."""
    axis = dimension % self.rank
    count = (self.shape[axis] - size) // step + 1
    found = b.gather(self, b.const(np.arange(count)[:, None] * step + np.arange(size)), axis)
    rest = [dim for dim in range(found.rank) if dim != axis + 1]
    return b.transpose(found, [*rest, axis + 1])
