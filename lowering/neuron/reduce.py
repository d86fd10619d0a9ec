"""Reductions that emitters of several families are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphwright.lowering.neuron.builder import Builder, Out, Shape, element, is_float, longs, sizes
from graphwright.lowering.neuron.xla import elements, hlo, ir

_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "sum": hlo.add, "prod": hlo.multiply, "max": hlo.maximum, "min": hlo.minimum, "all": hlo.and_, "any": hlo.or_,
}  # fmt: skip


def neutral(b: Builder, kind: str, dtype: Any) -> Out:
    """The value that a reduction of an element type starts from."""
    starts: dict[str, float] = {"sum": 0, "prod": 1, "all": 1, "any": 0, "max": -math.inf, "min": math.inf}
    value = starts[kind]
    if isinstance(dtype, ir.IntegerType) and math.isinf(value):
        value = _limit(dtype, largest=value > 0)
    return b.const(value, dtype)


def _limit(kind: Any, largest: bool) -> int:
    if kind.is_unsigned or kind.width == 1:
        return 2**kind.width - 1 if largest else 0
    return 2 ** (kind.width - 1) - 1 if largest else -(2 ** (kind.width - 1))


def body(region: Any, kinds: Sequence[Any], compute: Callable[..., Sequence[Out]]) -> None:
    """Fill the region of an operation: a block with scalars of element types `kinds`, which returns `compute`'s."""
    block = region.blocks.append(*(ir.RankedTensorType.get([], kind) for kind in kinds))
    with ir.InsertionPoint(block):
        hlo.return_(list(compute(*block.arguments)))


def reduced(b: Builder, out: Out, kind: str, axes: Sequence[int], keepdim: bool = False) -> Out:
    """A value reduced over some dimensions; sums of half precision are taken in float32."""
    given, shape = element(out), sizes(out)
    wide = ir.F32Type.get() if kind in ("sum", "prod") and _is_half(given) else given
    rest = [size for axis, size in enumerate(shape) if axis not in axes]
    found = hlo.ReduceOp([b.type(rest, wide)], [b.convert(out, wide)], [neutral(b, kind, wide)], longs(sorted(axes)))
    body(found.body, [wide, wide], lambda left, right: [_OPERATIONS[kind](left, right)])
    result = b.convert(found.results[0], given)
    return b.reshape(result, [1 if axis in axes else size for axis, size in enumerate(shape)]) if keepdim else result


def _is_half(kind: Any) -> bool:
    return isinstance(kind, (ir.F16Type, ir.BF16Type))


def mean(b: Builder, out: Out, axes: Sequence[int], keepdim: bool = False) -> Out:
    """The mean over some dimensions."""
    count = math.prod(sizes(out)[axis] for axis in axes)
    total = reduced(b, out, "sum", axes, keepdim)
    return hlo.divide(total, b.like(count, total))


def windows(
    b: Builder, out: Out, kind: str, size: Shape, step: Shape | None = None, low: Shape | None = None,
    high: Shape | None = None,
) -> Out:  # fmt: skip
    """A value reduced over windows.

    Args:
        b: The builder.
        out: The value.
        kind: `sum`, `max` or `min`.
        size: Of the window, one number per dimension.
        step: From window to window.
        low: Neutral entries in front.
        high: Neutral entries at the end.
    """
    dtype, shape = element(out), sizes(out)
    none, one = [0] * len(shape), [1] * len(shape)
    step, low, high = list(step or one), list(low or none), list(high or none)
    padded = [n + before + after for n, before, after in zip(shape, low, high, strict=True)]
    result = [(n - width) // s + 1 for n, width, s in zip(padded, size, step, strict=True)]
    padding = elements(np.array(list(zip(low, high, strict=True)), np.int64))
    found = hlo.ReduceWindowOp(
        [b.type(result, dtype)], [out], [neutral(b, kind, dtype)], longs(size), window_strides=longs(step),
        base_dilations=longs(one), window_dilations=longs(one), padding=padding,
    )  # fmt: skip
    body(found.body, [dtype, dtype], lambda left, right: [_OPERATIONS[kind](left, right)])
    return found.results[0]


def softmax(b: Builder, out: Out, axis: int) -> Out:
    """Softmax along a dimension; half precision is computed in float32."""
    given = element(out)
    wide = ir.F32Type.get() if _is_half(given) else given
    out = b.convert(out, wide)
    top = b.broadcast(reduced(b, out, "max", [axis], True), sizes(out))
    powers = hlo.exponential(hlo.subtract(out, top))
    total = b.broadcast(reduced(b, powers, "sum", [axis], True), sizes(out))
    return b.convert(hlo.divide(powers, total), given)


def wide(b: Builder, out: Out) -> Out:
    """A value of half precision in float32."""
    return b.convert(out, ir.F32Type.get()) if is_float(out) and _is_half(element(out)) else out
