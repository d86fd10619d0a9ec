"""Calls that only move, repeat or relabel elements."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from graphwright.lowering.onnx.sizes import Size, expression
from graphwright.lowering.onnx.table import Emission, register

aten = torch.ops.aten


@register(
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.view_as.default,
    aten.reshape_as.default,
)
def view(b: Emission, self: ir.Value, **_: Any) -> ir.Value:
    """The elements in the shape of the result."""
    return b.sizes.reshape(self, b.result.shape)


@register(aten.unsqueeze.default)
def unsqueeze(b: Emission, self: ir.Value, dim: int) -> ir.Value:
    """A new dimension of size 1."""
    return b.op("Unsqueeze", self, b.axes(dim))


@register(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def squeeze(b: Emission, self: ir.Value, dim: Any = None) -> ir.Value:
    """Without those of the given dimensions that have size 1."""
    rank, shape = b.rank(self), b.shape(self)
    given = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = sorted(d % rank for d in given if rank and shape[d] == 1)
    return b.op("Squeeze", self, b.axes(dims)) if dims else self


def transposed(b: Emission, value: ir.Value, order: list[int]) -> ir.Value:
    """The dimensions in another order; what was transposed, if this undoes it."""
    before = value.producer()
    if before is not None and before.op_type == "Transpose":
        perm = before.attributes["perm"].as_ints()
        if [perm[i] for i in order] == sorted(order):
            return before.inputs[0]  # type: ignore[return-value]
    return value if order == sorted(order) else b.op("Transpose", value, perm=order)


@register(aten.permute.default)
def permute(b: Emission, self: ir.Value, dims: list[int]) -> ir.Value:
    """The dimensions in another order."""
    return transposed(b, self, [dim % len(dims) for dim in dims])


@register(aten.transpose.int)
def transpose(b: Emission, self: ir.Value, dim0: int, dim1: int) -> ir.Value:
    """Two dimensions swapped."""
    order = list(range(b.rank(self)))
    if order:
        order[dim0], order[dim1] = order[dim1], order[dim0]
    return transposed(b, self, order)


@register(aten.t.default, aten.numpy_T.default)
def t(b: Emission, self: ir.Value) -> ir.Value:
    """The dimensions in reverse order."""
    return transposed(b, self, list(reversed(range(b.rank(self)))))


@register(aten.mT.default)
def matrix_transpose(b: Emission, self: ir.Value) -> ir.Value:
    """The last two dimensions swapped."""
    return transpose(b, self, -2, -1)


@register(aten.movedim.int)
def movedim(b: Emission, self: ir.Value, source: int, destination: int) -> ir.Value:
    """One dimension at another place."""
    rank = b.rank(self)
    order = [d for d in range(rank) if d != source % rank]
    order.insert(destination % rank, source % rank)
    return transposed(b, self, order)


def expanded(b: Emission, value: ir.Value, before: Any, after: Any) -> ir.Value:
    """Broadcast from sizes `before` to sizes `after`; dimensions that stay are asked to become 1, that is, to stay."""
    padded = [1] * (len(after) - len(before)) + list(before)
    plan: list[Size] = [1 if _equal(have, want) else want for have, want in zip(padded, after, strict=True)]
    if all(size == 1 for size in plan) and len(before) == len(after):
        return value
    return b.op("Expand", value, b.sizes.vector(plan))


def _equal(have: Size, want: Size) -> bool:
    return expression(have) == expression(want)


@register(aten.expand.default, aten.expand_as.default, aten.broadcast_to.default)
def expand(b: Emission, self: ir.Value, **_: Any) -> ir.Value:
    """Broadcast to the shape of the result."""
    return expanded(b, self, b.shape(self), b.result.shape)


@register(aten.repeat.default)
def repeat(b: Emission, self: ir.Value, repeats: list[Size]) -> ir.Value:
    """Tiled along each dimension."""
    missing = len(repeats) - b.rank(self)
    value = b.op("Unsqueeze", self, b.axes(list(range(missing)))) if missing else self
    return b.op("Tile", value, b.sizes.vector(repeats))


@register(aten.cat.default, aten.concat.default)
def cat(b: Emission, tensors: list[ir.Value], dim: int) -> ir.Value:
    """Tensors one after another; torch lets empty ones of rank 1 take part."""
    parts = [t for t in tensors if b.rank(t) == b.result.dim() and b.shape(t)[dim] != 0]
    parts = [b.cast(part, b.result.dtype) for part in parts or tensors[:1]]
    return parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=dim)


@register(aten.stack.default)
def stack(b: Emission, tensors: list[ir.Value], dim: int) -> ir.Value:
    """Tensors along a new dimension."""
    parts = [b.op("Unsqueeze", b.cast(t, b.result.dtype), b.axes(dim)) for t in tensors]
    return b.op("Concat", *parts, axis=dim)


@register(aten.tril.default)
def tril(b: Emission, self: ir.Value, diagonal: int) -> ir.Value:
    """Zero above a diagonal."""
    return b.op("Trilu", self, b.scalar(diagonal, torch.int64), upper=0)


@register(aten.triu.default)
def triu(b: Emission, self: ir.Value, diagonal: int) -> ir.Value:
    """Zero below a diagonal."""
    return b.op("Trilu", self, b.scalar(diagonal, torch.int64), upper=1)


_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


@register(aten.pad.default, aten.constant_pad_nd.default)
def pad(b: Emission, self: ir.Value, pad: list[Size], value: Any, mode: str = "constant") -> ir.Value:
    """Elements added at both ends of the last dimensions; torch counts pairs from the last dimension."""
    rank = b.rank(self)
    begins: list[Size] = [0] * rank
    ends: list[Size] = [0] * rank
    for i in range(len(pad) // 2):
        begins[rank - 1 - i], ends[rank - 1 - i] = pad[2 * i], pad[2 * i + 1]
    filler = b.scalar(value or 0, b.result.dtype) if mode == "constant" else None
    return b.op("Pad", self, b.sizes.vector([*begins, *ends]), filler, mode=_MODES[mode])
