"""Orders of elements."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphwright.lowering.neuron.builder import Builder, Out, Value, is_float
from graphwright.lowering.neuron.legality import UNROLLED
from graphwright.lowering.neuron.reduce import body
from graphwright.lowering.neuron.reductions import extreme
from graphwright.lowering.neuron.table import register
from graphwright.lowering.neuron.xla import hlo

aten = torch.ops.aten


def ordered(b: Builder, self: Value, axis: int, descending: bool) -> list[Out]:
    """Elements in order along a dimension, equal ones as they came; and their positions."""
    places = b.iota(self.shape, axis, torch.int32)
    made = hlo.SortOp([self.out.type, places.type], [self.out, places], dimension=axis, is_stable=True)
    kinds = [self.out.type.element_type] * 2 + [places.type.element_type] * 2
    direction = "GT" if descending else "LT"
    body(made.comparator, kinds, lambda left, right, *_: [b.compare(direction, left, right)])
    return list(made.results)


@register(aten.sort.default)
def sort(b: Builder, self: Value, dim: int, descending: bool) -> list[Any]:
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
