"""Mixtures of experts: products of groups of rows, and the counts that say where groups end; no loop over data."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.lowering.neuron.builder import Builder, Number, Out, Value, is_float, sizes
from graphwright.lowering.neuron.matmul import rounded
from graphwright.lowering.neuron.reduce import reduced, wide
from graphwright.lowering.neuron.table import register
from graphwright.lowering.neuron.xla import hlo

aten = torch.ops.aten


@register("transformers::grouped_mm_fallback", aten._grouped_mm.default)
def grouped_product(
    b: Builder, weight: Value | None = None, offs: Value | None = None, input: Value | None = None,
    self: Value | None = None, mat2: Value | None = None, bias: Value | None = None, out_dtype: Any = None,
) -> Any:  # fmt: skip
    """Each row times the matrix of its group, by every matrix for every row: which rows a group has is not known."""
    rows, matrices = input or self, weight or mat2
    assert rows is not None and matrices is not None and offs is not None
    count, groups, width = rows.shape[0], matrices.shape[0], matrices.shape[2]
    left, right = rounded(b, rows.out), rounded(b, matrices.out)
    numbers = hlo.DotDimensionNumbers.get([], [], [1], [1])
    products = hlo.dot_general(b.type([count, groups, width], rows.out.type.element_type), left, right, numbers)
    mine = b.broadcast(_members(b, b.cast(offs, torch.int32), count), sizes(products), [0, 1])
    chosen = b.select(mine, products, b.const(0, rows.dtype))
    return b.cast(reduced(b, chosen, "sum", [1]), b.result.dtype)


def _members(b: Builder, ends: Out, count: int) -> Out:
    """[count, groups]: whether a row belongs to a group, from where the groups end."""
    shape = [count, sizes(ends)[0]]
    places = b.iota(shape, 0, torch.int32)
    before = b.compare("LT", places, b.broadcast(ends, shape, [1]))
    starts = b.concat([b.const(0, torch.int32, [1]), b.slice(ends, 0, 0, shape[1] - 1)], 0)
    return hlo.and_(before, b.compare("GE", places, b.broadcast(starts, shape, [1])))


@register(aten.histc.default)
def histc(b: Builder, self: Value, bins: int, min: Number, max: Number) -> Any:
    """How many elements lie in each of equal ranges; the last one has its end too."""
    data = wide(b, self.out) if is_float(self.out) else b.cast(self, torch.float32)
    data = b.reshape(data, [self.fake.numel()])
    low, high = b.like(min, data), b.like(max, data)
    scaled = hlo.multiply(hlo.divide(hlo.subtract(data, low), hlo.subtract(high, low)), b.like(bins, data))
    place = hlo.minimum(b.cast(hlo.floor(scaled), torch.int32), b.const(bins - 1, torch.int32, sizes(data)))
    inside = hlo.and_(b.compare("GE", data, low), b.compare("LE", data, high))
    shape = [sizes(data)[0], bins]
    found = b.compare("EQ", b.broadcast(place, shape, [0]), b.iota(shape, 1, torch.int32))
    found = hlo.and_(found, b.broadcast(inside, shape, [0]))
    return b.cast(reduced(b, b.cast(found, torch.float32), "sum", [0]), b.result.dtype)
