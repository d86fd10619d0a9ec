"""Calls that only move, repeat, take or relabel elements."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.lowering.common import register_transposes
from graphwright.lowering.openvino.builder import Builder, Size, Value, op, same
from graphwright.lowering.openvino.table import register

aten = torch.ops.aten


@register(
    aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int,
    aten.view_as.default, aten.reshape_as.default,
)  # fmt: skip
def view(b: Builder, self: Value, **_: Any) -> Any:
    """The elements in the shape of the result."""
    return b.reshape(self.out, self.shape, b.result.shape)


@register(aten.unsqueeze.default)
def unsqueeze(b: Builder, self: Value, dim: int) -> Any:
    """A new dimension of size 1."""
    return b.unsqueeze(self.out, dim % (self.rank + 1))


@register(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def squeeze(b: Builder, self: Value, dim: Any = None) -> Any:
    """Without those of the given dimensions that have size 1."""
    given = range(self.rank) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = sorted(d % self.rank for d in given if self.rank and same(self.shape[d], 1))
    return op.squeeze(self.out, b.const(dims)) if dims else self.out


register_transposes(register, lambda b, value, order: b.transpose(value.out, order))


@register(aten.expand.default, aten.expand_as.default, aten.broadcast_to.default)
def expand(b: Builder, self: Value, **_: Any) -> Any:
    """Broadcast to the shape of the result."""
    return b.expand(self.out, self.shape, b.result.shape)


@register(aten.repeat.default)
def repeat(b: Builder, self: Value, repeats: list[Size]) -> Any:
    """Tiled along each dimension."""
    return op.tile(self.out, b.vector(repeats))


@register(aten.cat.default, aten.concat.default)
def cat(b: Builder, tensors: list[Value], dim: int) -> Any:
    """Tensors one after another; torch lets empty ones of rank 1 take part."""
    parts = [t for t in tensors if t.rank == b.result.dim() and not same(t.shape[dim], 0)]
    outs = [b.cast(part, b.result.dtype) for part in parts or tensors[:1]]
    return outs[0] if len(outs) == 1 else op.concat(outs, dim)


@register(aten.stack.default)
def stack(b: Builder, tensors: list[Value], dim: int) -> Any:
    """Tensors along a new dimension."""
    axis = dim % (tensors[0].rank + 1)
    return op.concat([b.unsqueeze(b.cast(t, b.result.dtype), axis) for t in tensors], axis)


def _triangle(b: Builder, self: Value, diagonal: Any, lower: bool) -> Any:
    """Zero on one side of a diagonal."""
    rows, columns = self.shape[-2:]
    count = lambda size: op.range(b.const(0), b.squeezed(b.size(size)), b.const(1), "i64").output(0)  # noqa: E731
    shifted = op.add(b.unsqueeze(count(rows), 1), b.scalar(diagonal, torch.int64))
    compare = op.less_equal if lower else op.greater_equal
    kept = compare(b.unsqueeze(count(columns), 0), shifted)
    return op.select(kept, self.out, b.const(0, self.dtype))


@register(aten.tril.default)
def tril(b: Builder, self: Value, diagonal: Any) -> Any:
    """Zero above a diagonal."""
    return _triangle(b, self, diagonal, True)


@register(aten.triu.default)
def triu(b: Builder, self: Value, diagonal: Any) -> Any:
    """Zero below a diagonal."""
    return _triangle(b, self, diagonal, False)


_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


@register(aten.pad.default, aten.constant_pad_nd.default)
def pad(b: Builder, self: Value, pad: list[Size], value: Any, mode: str = "constant") -> Any:
    """Elements added at both ends of the last dimensions; torch counts pairs from the last dimension."""
    begins: list[Size] = [0] * self.rank
    ends: list[Size] = [0] * self.rank
    for i in range(len(pad) // 2):
        begins[-1 - i], ends[-1 - i] = pad[2 * i], pad[2 * i + 1]
    filler = b.scalar(value or 0, self.dtype)
    return op.pad(self.out, b.vector(begins), b.vector(ends), _MODES[mode], filler)


@register(aten.flip.default)
def flip(b: Builder, self: Value, dims: list[int]) -> Any:
    """Elements in the opposite order along some dimensions."""
    axes = [dim % self.rank for dim in dims]
    starts, stops, steps = [-1] * len(axes), [-(2**31)] * len(axes), [-1] * len(axes)
    return op.slice(self.out, *(b.const(part) for part in (starts, stops, steps, axes)))


@register(aten.roll.default)
def roll(b: Builder, self: Value, shifts: list[Size], dims: list[int]) -> Any:
    """Elements moved along some dimensions; what leaves at one end comes back at the other."""
    if dims:
        return op.roll(self.out, b.vector(shifts), b.const([dim % self.rank for dim in dims]))
    flat = op.reshape(self.out, b.const([-1]), False)
    return b.reshape(op.roll(flat, b.vector(shifts), b.const([0])).output(0), None, self.shape)


# ---- parts -----------------------------------------------------------------------------------


def _limit(b: Builder, end: Any) -> Any:
    """The end of a slice, as an output of shape [1]; no end at all is the largest one."""
    if end is None or (isinstance(end, int) and end > 2**31):
        return b.const([2**31 - 1])
    return b.size(end)


def sliced(b: Builder, out: Any, dim: int, start: Any, end: Any, step: int = 1) -> Any:
    """Elements from `start` to `end` along one dimension."""
    begin = b.size(0 if start is None else start)  # not `or`: that asks for the value of a symbolic start
    return op.slice(out, begin, _limit(b, end), b.const([step]), b.const([dim])).output(0)


@register(aten.slice.Tensor)
def slice_tensor(b: Builder, self: Value, dim: int, start: Any, end: Any, step: int) -> Any:
    """Every `step`-th element from `start` to `end`."""
    if same(self.shape[dim], b.result.shape[dim]) and step == 1:
        return self.out
    return sliced(b, self.out, dim % self.rank, start, end, step)


@register(aten.narrow.default)
def narrow(b: Builder, self: Value, dim: int, start: Size, length: Size) -> Any:
    """`length` elements from `start` on."""
    begin = b.size(start)
    if isinstance(start, int) and start < 0:
        begin = op.add(begin, b.size(self.shape[dim])).output(0)
    end = op.add(begin, b.size(length))
    return op.slice(self.out, begin, end, b.const([1]), b.const([dim % self.rank]))


@register(aten.select.int)
def select(b: Builder, self: Value, dim: int, index: Size) -> Any:
    """One element along a dimension, without the dimension."""
    return op.gather(self.out, b.squeezed(b.size(index)), b.const(dim % self.rank))


def _parts(b: Builder, self: Value, dim: int) -> list[Any]:
    """The results of a call that cuts a tensor into parts, by the sizes of the results."""
    assert b.node is not None
    fakes = b.node.meta["val"]
    sizes = [fake.shape[dim] for fake in fakes]
    if len(sizes) == 1:
        return [self.out]
    return list(op.variadic_split(self.out, b.const(dim % self.rank), b.vector(sizes)).outputs())


@register(
    aten.split.Tensor, aten.split.sizes, aten.split_with_sizes.default, aten.chunk.default,
    aten.tensor_split.sections,
)  # fmt: skip
def split(b: Builder, self: Value, dim: int = 0, **_: Any) -> list[Any]:
    """Parts along a dimension."""
    return _parts(b, self, dim)


@register(aten.unbind.int)
def unbind(b: Builder, self: Value, dim: int) -> list[Any]:
    """The elements along a dimension."""
    count = int(self.shape[dim])
    return [op.gather(self.out, b.const(i), b.const(dim % self.rank)) for i in range(count)]


@register(aten.slice_scatter.default)
def slice_scatter(b: Builder, self: Value, src: Value, dim: int, start: Any, end: Any, step: int) -> Any:
    """A tensor with a slice of it replaced."""
    axis = dim % self.rank
    positions = op.range(b.const(0), b.squeezed(b.size(self.shape[axis])), b.const(1), "i64").output(0)
    indices = sliced(b, positions, 0, start, end, step)
    return op.scatter_update(self.out, indices, b.cast(src, self.dtype), b.const(axis))


@register(aten.select_scatter.default)
def select_scatter(b: Builder, self: Value, src: Value, dim: int, index: Size) -> Any:
    """A tensor with one element along a dimension replaced."""
    axis = dim % self.rank
    update = b.unsqueeze(b.cast(src, self.dtype), axis)
    return op.scatter_update(self.out, b.size(index), update, b.const(axis))
