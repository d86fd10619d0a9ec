"""Operators on known numbers: the arithmetic of sizes that ONNX graphs spell with tensors."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from graphwright.frontends.onnx.table import Call
from graphwright.frontends.onnx.values import Known, number, numbers

KNOWN: dict[str, Callable[..., Any]] = {}
"""Operator -> function of a `Call` and known inputs; None where it cannot say."""


def known(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function for operators whose inputs are all known."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        KNOWN.update(dict.fromkeys(names, function))
        return function

    return add


def _each(function: Callable[..., Any], *inputs: Known, dtype: torch.dtype | None = None) -> Known:
    items = np.frompyfunc(function, len(inputs), 1)(*[value.items for value in inputs])
    return Known(np.asarray(items, dtype=object), dtype or inputs[0].dtype)


def _divide(a: Any, b: Any) -> Any:
    """Division as ONNX does it: whole numbers are cut off toward zero, which for sizes is rounding down."""
    if isinstance(a, float) or isinstance(b, float):
        return a / b
    if isinstance(a, int) and isinstance(b, int):
        return int(a / b) if abs(a) < 2**52 else a // b
    return a // b


def _larger(a: Any, b: Any) -> Any:
    return torch.sym_max(a, b)


def _smaller(a: Any, b: Any) -> Any:
    return torch.sym_min(a, b)


_ARITHMETIC = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Div": _divide, "Mod": operator.mod,
    "Max": _larger, "Min": _smaller, "Pow": operator.pow,
}  # fmt: skip
_COMPARISONS = {
    "Equal": operator.eq, "Greater": operator.gt, "GreaterOrEqual": operator.ge, "Less": operator.lt,
    "LessOrEqual": operator.le, "And": operator.and_, "Or": operator.or_,
}  # fmt: skip


@known(*_ARITHMETIC)
def arithmetic(call: Call, *inputs: Known) -> Known | None:
    """Arithmetic of two or, for Max and Min, several numbers."""
    if call.attr("fmod", 0):
        return None
    result = inputs[0]
    for other in inputs[1:]:
        result = _each(_ARITHMETIC[call.node.op_type], result, other)
    return result


@known(*_COMPARISONS)
def comparison(call: Call, a: Known, b: Known) -> Known:
    """Comparison of two numbers."""
    function = _COMPARISONS[call.node.op_type]
    return _each(lambda x, y: _settled(function(x, y)), a, b, dtype=torch.bool)


def _settled(answer: Any) -> Any:
    """A truth about sizes as a plain bool where it holds for all sizes."""
    if isinstance(answer, torch.SymBool):
        if statically_known_true(answer):
            return True
        if statically_known_true(torch.sym_not(answer)):
            return False
    return answer


@known("Neg", "Abs", "Ceil", "Floor", "Sqrt", "Not")
def unary(call: Call, x: Known) -> Known | None:
    """A function of one number."""
    functions: dict[str, Callable[..., Any]] = {
        "Neg": operator.neg, "Abs": abs, "Ceil": math.ceil, "Floor": math.floor, "Not": operator.not_,
    }  # fmt: skip
    if call.node.op_type == "Sqrt":
        return _each(torch.sym_sqrt, x)
    function: Callable[..., Any] = functions[call.node.op_type]
    return _each((lambda v: float(function(v))) if x.dtype.is_floating_point and x.is_constant else function, x)


@known("Identity")
def identity(call: Call, x: Known) -> Known:
    """The value."""
    return x


@known("Cast")
def cast(call: Call, x: Known) -> Known:
    """Another element type."""
    dtype = call.dtype("to")
    assert dtype is not None
    if dtype is torch.bool:
        return _each(lambda v: v if isinstance(v, bool) else v != 0, x, dtype=dtype)
    return _each(torch.sym_float if dtype.is_floating_point else torch.sym_int, x, dtype=dtype)


@known("CastLike")
def cast_like(call: Call, x: Known, other: Known) -> Known:
    """The element type of another value."""
    return _each(torch.sym_float if other.dtype.is_floating_point else torch.sym_int, x, dtype=other.dtype)


@known("Shape")
def shape(call: Call, x: Known) -> Known:
    """Sizes."""
    return Known.of(list(x.items.shape)[call.attr("start", 0) : call.attr("end")])


@known("Size")
def size(call: Call, x: Known) -> Known:
    """Number of elements."""
    return Known.of(x.items.size)


@known("Concat")
def concat(call: Call, *parts: Known) -> Known:
    """Several arrays one after the other."""
    return Known(np.concatenate([part.items for part in parts], call.attr("axis")), parts[0].dtype)


@known("Gather")
def gather(call: Call, x: Known, indices: Known) -> Known | None:
    """Items at known positions."""
    if not indices.is_constant:
        return None
    return Known(np.asarray(np.take(x.items, indices.items.astype(int), call.attr("axis", 0)), dtype=object), x.dtype)


@known("Slice")
def slices(call: Call, x: Known, *ends: Known | None) -> Known | None:
    """A part of an array."""
    if not all(part is None or part.is_constant for part in ends):
        return None
    starts, stops, axes, steps = [numbers(part) if part is not None else None for part in (*ends, None, None)[:4]]
    assert starts is not None and stops is not None
    where: list[Any] = [slice(None)] * x.items.ndim
    for i, axis in enumerate(axes or range(len(starts))):
        step = steps[i] if steps else 1
        stop = None if step < 0 and stops[i] < -(2**31) else stops[i]
        where[axis] = slice(starts[i], stop, step)
    return Known(x.items[tuple(where)], x.dtype)


@known("Unsqueeze")
def unsqueeze(call: Call, x: Known, axes: Known | None = None) -> Known:
    """New dimensions of size 1."""
    positions = numbers(axes) if axes is not None else call.attr("axes")
    return Known(np.expand_dims(x.items, tuple(positions)), x.dtype)


@known("Squeeze")
def squeeze(call: Call, x: Known, axes: Known | None = None) -> Known:
    """Without dimensions of size 1."""
    positions = numbers(axes) if axes is not None else call.attr("axes")
    return Known(np.squeeze(x.items, None if positions is None else tuple(positions)), x.dtype)


@known("Reshape")
def reshape(call: Call, x: Known, sizes: Known) -> Known | None:
    """Other sizes."""
    call.read.add("allowzero")
    if not sizes.is_constant or 0 in numbers(sizes):
        return None
    return Known(x.items.reshape([int(n) for n in numbers(sizes)]), x.dtype)


@known("Where")
def where(call: Call, condition: Known, a: Known, b: Known) -> Known | None:
    """One of two numbers each."""
    if not condition.is_constant:
        return None
    return Known(np.where(condition.items.astype(bool), a.items, b.items).astype(object), a.dtype)


@known("ReduceProd", "ReduceSum")
def reduce(call: Call, x: Known, axes: Known | None = None) -> Known | None:
    """Product or sum of all numbers."""
    if x.items.ndim != 1 or call.attr("noop_with_empty_axes", 0):
        return None
    total = math.prod(numbers(x)) if call.node.op_type == "ReduceProd" else sum(numbers(x))
    return Known.of([total] if call.attr("keepdims", 1) else total, x.dtype)


@known("ConstantOfShape")
def constant_of_shape(call: Call, sizes: Known) -> Known | None:
    """The same number throughout; small and whole ones only."""
    value = call.attr("value")
    array = np.zeros(1, np.float32) if value is None else value.numpy()
    if not sizes.is_constant or len(numbers(sizes)) > 1 or math.prod(numbers(sizes)) > 64 or array.dtype.kind != "i":
        return None
    return Known(np.full([int(n) for n in numbers(sizes)], int(array.reshape(-1)[0]), dtype=object), torch.int64)


@known("Range")
def arange(call: Call, start: Known, stop: Known, step: Known) -> Known | None:
    """Equally spaced numbers, where there are few."""
    if not (start.is_constant and stop.is_constant and step.is_constant) or start.dtype.is_floating_point:
        return None
    values = list(range(number(start), number(stop), number(step)))
    return Known.of(values, start.dtype) if len(values) <= 64 else None
