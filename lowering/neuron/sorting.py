"""Orders of elements."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphwright.lowering.neuron.builder import Builder, Out, Value, element, is_float, sizes
from graphwright.lowering.neuron.legality import RANKED, UNROLLED, comparisons
from graphwright.lowering.neuron.reduce import body, neutral, reduced
from graphwright.lowering.neuron.reductions import extreme
from graphwright.lowering.neuron.table import register
from graphwright.lowering.neuron.xla import hlo

aten = torch.ops.aten


def ordered(b: Builder, self: Value, axis: int, descending: bool) -> list[Out]:
    """Elements in order along a dimension, equal ones as they came; and their positions."""
    if comparisons(self.fake, axis) <= RANKED:
        return _ranked(b, self, axis, descending)
    places = b.iota(self.shape, axis, torch.int32)
    made = hlo.SortOp([self.out.type, places.type], [self.out, places], dimension=axis, is_stable=True)
    kinds = [self.out.type.element_type] * 2 + [places.type.element_type] * 2
    direction = "GT" if descending else "LT"
    body(made.comparator, kinds, lambda left, right, *_: [b.compare(direction, left, right)])
    return list(made.results)


def _ranked(b: Builder, self: Value, axis: int, descending: bool) -> list[Out]:
    """The same without a sort: an element's place is the number of those before it, each pair being compared."""
    order = [*(d for d in range(self.rank) if d != axis), axis]
    data = b.transpose(self.out, order)
    shape = [*sizes(data), sizes(data)[-1]]
    last = len(shape) - 1
    mine, other = (b.broadcast(data, shape, [*range(last - 1), d]) for d in (last - 1, last))
    here, there = (b.iota(shape, d, torch.int32) for d in (last - 1, last))
    ties = hlo.and_(b.compare("EQ", other, mine), b.compare("LT", there, here))
    before = hlo.or_(b.compare("GT" if descending else "LT", other, mine), ties)
    rank = b.broadcast(reduced(b, b.cast(before, torch.int32), "sum", [last]), shape, list(range(last)))
    taken = b.compare("EQ", rank, there)
    lowest = b.broadcast(neutral(b, "max", element(data)), shape, [])
    values = reduced(b, b.select(taken, mine, lowest), "max", [last - 1])
    places = reduced(b, b.select(taken, here, b.like(0, here)), "sum", [last - 1])
    back = sorted(range(self.rank), key=order.__getitem__)
    return [b.transpose(out, back) for out in (values, places)]


@register(aten.sort.default, aten.sort.stable)
def sort(b: Builder, self: Value, dim: int, descending: bool, stable: bool | None = None) -> list[Any]:
    """Elements in order, and their positions."""
    return ordered(b, self, dim % max(self.rank, 1), descending)


@register(aten.argsort.default)
def argsort(b: Builder, self: Value, dim: int, descending: bool) -> Any:
    """Positions of the elements in order."""
    return ordered(b, self, dim % max(self.rank, 1), descending)[1]


@register(aten.topk.default)
def topk(b: Builder, self: Value, k: int, dim: int, largest: bool, sorted: bool) -> list[Any]:
    """The `k` largest (or smallest) elements and their positions: a few of floats are found one after another."""
    axis = dim % max(self.rank, 1)
    if k > UNROLLED or not is_float(self.out):
        return [b.slice(out, axis, 0, k) for out in ordered(b, self, axis, largest)]
    kind, worst = ("max", -math.inf) if largest else ("min", math.inf)
    left, places = self.out, b.iota(self.shape, axis, torch.int32)
    values, positions = [], []
    for _ in range(k):
        value, position = (b.unsqueeze(out, axis) for out in extreme(b, left, axis, kind))
        values.append(value)
        positions.append(position)
        taken = b.compare("EQ", places, b.broadcast(position, self.shape))
        left = b.select(taken, b.const(worst, self.dtype), left)
    return [b.concat(values, axis), b.concat(positions, axis)]
