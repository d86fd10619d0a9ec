"""Arithmetic, element by element."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphwright.lowering.neuron.builder import Builder, Number, Out, Value, is_float, sizes
from graphwright.lowering.neuron.reduce import wide
from graphwright.lowering.neuron.table import register
from graphwright.lowering.neuron.xla import chlo, hlo

aten = torch.ops.aten

_UNARY = {
    aten.abs.default: hlo.abs, aten.neg.default: hlo.negate, aten.ceil.default: hlo.ceil, aten.floor.default: hlo.floor,
    aten.round.default: hlo.round_nearest_even, aten.sign.default: hlo.sign, aten.sgn.default: hlo.sign,
}  # fmt: skip
_FUNCTIONS = {
    aten.exp.default: hlo.exponential, aten.expm1.default: hlo.exponential_minus_one, aten.log.default: hlo.log,
    aten.log1p.default: hlo.log_plus_one, aten.sqrt.default: hlo.sqrt, aten.rsqrt.default: hlo.rsqrt,
    aten.sin.default: hlo.sine, aten.cos.default: hlo.cosine, aten.tan.default: hlo.tan, aten.tanh.default: hlo.tanh,
    aten.sigmoid.default: hlo.logistic, aten.erf.default: chlo.erf, aten.acos.default: chlo.acos,
    aten.asin.default: chlo.asin, aten.atan.default: chlo.atan, aten.sinh.default: chlo.sinh,
    aten.cosh.default: chlo.cosh,
}  # fmt: skip


def _unary(target: Any, function: Any, in_float32: bool) -> None:
    def emit(b: Builder, self: Value) -> Any:
        value = b.cast(self, b.result.dtype)
        return b.cast(function(wide(b, value) if in_float32 else value), b.result.dtype)

    register(target)(emit)


for _target, _function in _UNARY.items():
    _unary(_target, _function, False)
for _target, _function in _FUNCTIONS.items():
    _unary(_target, _function, True)


def _log_of(base: float) -> Any:
    def emit(b: Builder, self: Value) -> Any:
        logarithm = hlo.log(wide(b, b.cast(self, b.result.dtype)))
        return b.cast(hlo.multiply(logarithm, b.like(1 / math.log(base), logarithm)), b.result.dtype)

    return emit


register(aten.log2.default)(_log_of(2.0))
register(aten.log10.default)(_log_of(10.0))


@register(aten.trunc.default)
def trunc(b: Builder, self: Value) -> Any:
    """The whole number towards zero."""
    return truncated(b, self.out)


@register(aten.reciprocal.default)
def reciprocal(b: Builder, self: Value) -> Any:
    """One divided by the value."""
    value = b.cast(self, b.result.dtype)
    return hlo.divide(b.like(1, value), value)


@register(aten.square.default)
def square(b: Builder, self: Value) -> Any:
    """Square."""
    return hlo.multiply(self.out, self.out)


def binary(b: Builder, function: Any, left: Number, right: Number) -> Any:
    """A binary operation in the type that torch computes in, then in the type of the result."""
    return b.cast(function(*b.promote(left, right)), b.result.dtype)


def _scaled(b: Builder, value: Number, alpha: Number) -> Number:
    if alpha == 1:
        return value
    if not isinstance(value, Value):
        return value * alpha
    factor = b.broadcast(b.scalar(alpha, value.dtype), value.shape)
    return Value(hlo.multiply(value.out, factor), value.fake)


@register(aten.add.Tensor, aten.add.Scalar)
def add(b: Builder, self: Value, other: Number, alpha: Number) -> Any:
    """`self + alpha * other`; of booleans, the disjunction."""
    return binary(b, hlo.or_ if b.result.dtype is torch.bool else hlo.add, self, _scaled(b, other, alpha))


@register(aten.sub.Tensor, aten.sub.Scalar)
def sub(b: Builder, self: Value, other: Number, alpha: Number) -> Any:
    """`self - alpha * other`."""
    return binary(b, hlo.subtract, self, _scaled(b, other, alpha))


@register(aten.rsub.Tensor, aten.rsub.Scalar)
def rsub(b: Builder, self: Value, other: Number, alpha: Number) -> Any:
    """`other - alpha * self`."""
    return binary(b, hlo.subtract, other, _scaled(b, self, alpha))


@register(aten.mul.Tensor, aten.mul.Scalar)
def mul(b: Builder, self: Value, other: Number) -> Any:
    """Product; of booleans, the conjunction."""
    return binary(b, hlo.and_ if b.result.dtype is torch.bool else hlo.multiply, self, other)


def _both(b: Builder, *values: Number) -> list[Out]:
    """Values in the type of the result, broadcast together."""
    return b.together(*(b.scalar(value, b.result.dtype) for value in values))


@register(aten.div.Tensor, aten.div.Scalar)
def div(b: Builder, self: Value, other: Number) -> Any:
    """Quotient; of integers, as floats."""
    return hlo.divide(*_both(b, self, other))


@register(aten.div.Tensor_mode, aten.div.Scalar_mode)
def div_mode(b: Builder, self: Value, other: Number, rounding_mode: str | None) -> Any:
    """Quotient rounded down (`floor`) or towards zero (`trunc`)."""
    if rounding_mode is None:
        return div(b, self, other)
    if rounding_mode == "floor":
        return floor_divide(b, self, other)
    quotient = hlo.divide(*b.promote(self, other))
    return truncated(b, quotient) if is_float(quotient) else quotient


def truncated(b: Builder, out: Out) -> Out:
    """The whole number towards zero."""
    return hlo.multiply(hlo.sign(out), hlo.floor(hlo.abs(out)))


@register(aten.floor_divide.default, aten.floor_divide.Scalar)
def floor_divide(b: Builder, self: Value, other: Number) -> Any:
    """Quotient rounded down."""
    left, right = b.promote(self, other)
    if is_float(left):
        return hlo.floor(hlo.divide(left, right))
    return hlo.divide(hlo.subtract(left, _modulo(b, left, right)), right)


def _modulo(b: Builder, left: Out, right: Out) -> Out:
    """Remainder with the sign of the divisor."""
    rest, zero = hlo.remainder(left, right), b.like(0, left)
    wrong = b.compare("NE", b.compare("LT", rest, zero), b.compare("LT", right, zero))
    inexact = b.compare("NE", rest, zero)
    return b.select(hlo.and_(wrong, inexact), hlo.add(rest, right), rest)


@register(aten.remainder.Tensor, aten.remainder.Scalar)
def remainder(b: Builder, self: Value, other: Number) -> Any:
    """Remainder with the sign of the divisor."""
    return _modulo(b, *b.promote(self, other))


@register(aten.fmod.Tensor, aten.fmod.Scalar)
def fmod(b: Builder, self: Value, other: Number) -> Any:
    """Remainder with the sign of the dividend."""
    return hlo.remainder(*b.promote(self, other))


@register(aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar)
def power(b: Builder, self: Number, exponent: Number) -> Any:
    """Power; small whole exponents are products."""
    if exponent in (2, 3) and isinstance(self, Value):
        value = b.cast(self, b.result.dtype)
        squared = hlo.multiply(value, value)
        return squared if exponent == 2 else hlo.multiply(squared, value)
    return hlo.power(*_both(b, self, exponent))


@register(aten.atan2.default)
def atan2(b: Builder, self: Value, other: Value) -> Any:
    """The angle of a point."""
    return hlo.atan2(*_both(b, self, other))


@register(aten.maximum.default, aten.max.other)
def maximum(b: Builder, self: Value, other: Value) -> Any:
    """The larger of two."""
    return hlo.maximum(*b.promote(self, other))


@register(aten.minimum.default, aten.min.other)
def minimum(b: Builder, self: Value, other: Value) -> Any:
    """The smaller of two."""
    return hlo.minimum(*b.promote(self, other))


def bounded(b: Builder, value: Value, low: Number | None, high: Number | None) -> Out:
    """A value kept between two bounds."""
    out = b.cast(value, b.result.dtype)
    for bound, function in ((low, hlo.maximum), (high, hlo.minimum)):
        if bound is not None:
            out = function(*b.together(out, b.scalar(bound, b.result.dtype)))
    return b.broadcast(out, sizes(out))


@register(aten.clamp.default, aten.clamp.Tensor)
def clamp(b: Builder, self: Value, min: Number | None, max: Number | None) -> Any:
    """The value, kept between two bounds."""
    return bounded(b, self, min, max)


@register(aten.clamp_min.default, aten.clamp_min.Tensor)
def clamp_min(b: Builder, self: Value, min: Number) -> Any:
    """The value, at least `min`."""
    return bounded(b, self, min, None)


@register(aten.clamp_max.default, aten.clamp_max.Tensor)
def clamp_max(b: Builder, self: Value, max: Number) -> Any:
    """The value, at most `max`."""
    return bounded(b, self, None, max)


@register(aten.lerp.Scalar, aten.lerp.Tensor)
def lerp(b: Builder, self: Value, end: Value, weight: Number) -> Any:
    """`self + weight * (end - self)`."""
    start, stop, factor = b.together(self.out, end.out, b.scalar(weight, self.dtype))
    return hlo.add(start, hlo.multiply(factor, hlo.subtract(stop, start)))
