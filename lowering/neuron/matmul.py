"""Products of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from graphwright.lowering.neuron.builder import Builder, Number, Out, Value, element, sizes
from graphwright.lowering.neuron.table import register
from graphwright.lowering.neuron.xla import hlo, ir

aten = torch.ops.aten


def rounded(b: Builder, out: Out) -> Out:
    """An operand of a product, in the precision that products have."""
    if b.products is None or not isinstance(element(out), ir.F32Type):
        return out
    return b.cast(out, b.products)


def contracted(b: Builder, left: Out, right: Out, axes: tuple[int, int], batch: int = 0) -> Out:
    """Product over one dimension of each; the first `batch` dimensions belong together.

    Returns:
        [batch dimensions, rest of `left`, rest of `right`], in the element type of the wider operand.
    """
    kind = _wider(left, right)
    left, right = (b.convert(rounded(b, out), element(rounded(b, left))) for out in (left, right))
    both = list(range(batch))
    numbers = hlo.DotDimensionNumbers.get(both, both, [axes[0]], [axes[1]])
    rows = [size for axis, size in enumerate(sizes(left)) if axis != axes[0]]
    columns = [size for axis, size in enumerate(sizes(right)) if axis != axes[1] and axis >= batch]
    return hlo.dot_general(b.type([*rows, *columns], kind), left, right, numbers)


def _wider(left: Out, right: Out) -> Any:
    return max((element(left), element(right)), key=lambda kind: kind.width)


@register(aten.linear.default)
def linear(b: Builder, input: Value, weight: Value, bias: Value | None) -> Any:
    """`input @ weight.T + bias`."""
    out = b.cast(contracted(b, input.out, weight.out, (input.rank - 1, weight.rank - 1)), b.result.dtype)
    return out if bias is None else hlo.add(out, b.broadcast(bias.out, sizes(out)))


@register(aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default)
def matmul(b: Builder, self: Value, **others: Value) -> Any:
    """Product of matrices, vectors, or batches of them."""
    other = next(iter(others.values()))
    return b.reshape(b.cast(product(b, self.out, other.out), b.result.dtype), b.result.shape)


def product(b: Builder, left: Out, right: Out) -> Out:
    """`left @ right`; one of rank 1 is a row or a column of a matrix, which stays in the result."""
    left = b.unsqueeze(left, 0) if len(sizes(left)) == 1 else left
    right = b.unsqueeze(right, 1) if len(sizes(right)) == 1 else right
    a, c = sizes(left), sizes(right)
    if len(c) == 2:
        return contracted(b, left, right, (len(a) - 1, 0))
    lead = list(np.broadcast_shapes(tuple(a[:-2]), tuple(c[:-2])))
    left, right = b.broadcast(left, [*lead, *a[-2:]]), b.broadcast(right, [*lead, *c[-2:]])
    rank = len(lead)
    return contracted(b, left, right, (rank + 1, rank), rank)


def _plus(b: Builder, self: Value, out: Out, beta: Number, alpha: Number) -> Out:
    if alpha != 1:
        out = hlo.multiply(out, b.like(alpha, out))
    if beta == 0:
        return out
    shift = b.broadcast(b.cast(self, b.result.dtype), sizes(out))
    return hlo.add(out, shift if beta == 1 else hlo.multiply(shift, b.like(beta, shift)))


@register(aten.addmm.default)
def addmm(b: Builder, self: Value, mat1: Value, mat2: Value, beta: Number, alpha: Number) -> Any:
    """`beta * self + alpha * mat1 @ mat2`."""
    return _plus(b, self, b.cast(product(b, mat1.out, mat2.out), b.result.dtype), beta, alpha)


@register(aten.baddbmm.default)
def baddbmm(b: Builder, self: Value, batch1: Value, batch2: Value, beta: Number, alpha: Number) -> Any:
    """`beta * self + alpha * batch1 @ batch2`."""
    return _plus(b, self, b.cast(product(b, batch1.out, batch2.out), b.result.dtype), beta, alpha)
