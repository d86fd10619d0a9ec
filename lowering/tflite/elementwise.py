"""Arithmetic and activation functions, element by element."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphwright.lowering.tflite.builder import Builder, Number
from graphwright.lowering.tflite.graph import Value
from graphwright.lowering.tflite.table import register

aten = torch.ops.aten

_UNARY = {
    aten.abs.default: "ABS", aten.ceil.default: "CEIL", aten.cos.default: "COS", aten.exp.default: "EXP",
    aten.floor.default: "FLOOR", aten.hardswish.default: "HARD_SWISH", aten.log.default: "LOG",
    aten.neg.default: "NEG", aten.relu.default: "RELU", aten.round.default: "ROUND", aten.rsqrt.default: "RSQRT",
    aten.sigmoid.default: "LOGISTIC", aten.sign.default: "SIGN", aten.sgn.default: "SIGN", aten.sin.default: "SIN",
    aten.sqrt.default: "SQRT", aten.tanh.default: "TANH", aten.relu6.default: "RELU6",
}  # fmt: skip


def _unary(target: Any, code: str) -> None:
    def emit(b: Builder, self: Value) -> Value:
        return b.unary(code, b.cast(self, b.dtype))

    register(target)(emit)


for _target, _code in _UNARY.items():
    _unary(_target, _code)


@register(aten.silu.default)
def silu(b: Builder, self: Value) -> Value:
    """`x * sigmoid(x)`."""
    return b.binary("MUL", self, b.unary("LOGISTIC", self))


@register(aten.mish.default)
def mish(b: Builder, self: Value) -> Value:
    """`x * tanh(softplus(x))`."""
    return b.binary("MUL", self, b.unary("TANH", softplus(b, self, 1.0, 20.0)))


@register(aten.gelu.default)
def gelu(b: Builder, self: Value, approximate: str) -> Value:
    """GELU, exact or by tanh."""
    return b.unary("GELU", self, approximate=approximate == "tanh")


@register(aten.erf.default)
def erf(b: Builder, self: Value) -> Value:
    """Gauss's error function, solved from GELU's definition; a line near zero, where that divides by nothing."""
    wide = b.binary("MUL", self, b.const(math.sqrt(2), self.dtype))
    small = b.binary("LESS", b.unary("ABS", wide), b.const(1e-4, self.dtype), "bool")
    divisor = b.select(small, b.const(1.0, self.dtype), wide)
    twice = b.binary("DIV", b.binary("MUL", gelu(b, divisor, "none"), b.const(2.0, self.dtype)), divisor)
    found = b.binary("SUB", twice, b.const(1.0, self.dtype))
    return b.select(small, b.binary("MUL", self, b.const(2 / math.sqrt(math.pi), self.dtype)), found)


def binary(b: Builder, code: str, left: Number, right: Number) -> Value:
    """A binary operator in the type that torch computes in, then in the type of the result."""
    first, second = b.promote(left, right)
    return b.cast(b.binary(code, first, second), b.dtype)


def _scaled(b: Builder, value: Number, alpha: Number) -> Number:
    if alpha == 1:
        return value
    return b.binary("MUL", value, b.scalar(alpha, value.dtype)) if isinstance(value, Value) else value * alpha


@register(aten.add.Tensor, aten.add.Scalar)
def add(b: Builder, self: Value, other: Number, alpha: Number) -> Value:
    """`self + alpha * other`; of booleans, the disjunction."""
    return binary(b, "LOGICAL_OR" if b.dtype == "bool" else "ADD", self, _scaled(b, other, alpha))


@register(aten.sub.Tensor, aten.sub.Scalar)
def sub(b: Builder, self: Value, other: Number, alpha: Number) -> Value:
    """`self - alpha * other`."""
    return binary(b, "SUB", self, _scaled(b, other, alpha))


@register(aten.rsub.Tensor, aten.rsub.Scalar)
def rsub(b: Builder, self: Value, other: Number, alpha: Number) -> Value:
    """`other - alpha * self`."""
    return binary(b, "SUB", other, _scaled(b, self, alpha))


@register(aten.mul.Tensor, aten.mul.Scalar)
def mul(b: Builder, self: Value, other: Number) -> Value:
    """Product; of booleans, the conjunction."""
    return binary(b, "LOGICAL_AND" if b.dtype == "bool" else "MUL", self, other)


@register(aten.div.Tensor, aten.div.Scalar)
def div(b: Builder, self: Value, other: Number) -> Value:
    """Quotient; of integers, as floats."""
    if isinstance(other, (int, float)) and other and math.frexp(other)[0] == 0.5:
        return b.binary("MUL", b.scalar(self, b.dtype), b.const(1 / other, b.dtype))
    return b.binary("DIV", b.scalar(self, b.dtype), b.scalar(other, b.dtype))


@register(aten.div.Tensor_mode, aten.div.Scalar_mode)
def div_mode(b: Builder, self: Value, other: Number, rounding_mode: str | None) -> Value:
    """Quotient rounded down (`floor`) or towards zero (`trunc`)."""
    if rounding_mode is None:
        return div(b, self, other)
    if rounding_mode == "floor":
        return floor_divide(b, self, other)
    numerator, divisor = b.promote(self, other)
    quotient = b.binary("DIV", numerator, divisor)
    return b.cast(b.cast(quotient, "int32"), b.dtype) if quotient.is_float else quotient


@register(aten.floor_divide.default, aten.floor_divide.Scalar)
def floor_divide(b: Builder, self: Value, other: Number) -> Value:
    """Quotient rounded down."""
    left, right = b.promote(self, other)
    if left.is_float:
        return b.unary("FLOOR", b.binary("DIV", left, right))
    return b.binary("FLOOR_DIV", left, right)


@register(aten.remainder.Tensor, aten.remainder.Scalar)
def remainder(b: Builder, self: Value, other: Number) -> Value:
    """Remainder with the sign of the divisor."""
    return binary(b, "FLOOR_MOD", self, other)


@register(aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar)
def power(b: Builder, self: Number, exponent: Number) -> Value:
    """Power; of an integer exponent up to 4, as products."""
    base = b.scalar(self, b.dtype)
    if isinstance(self, Value) and exponent in (2, 3, 4):
        squared = b.binary("MUL", base, base)
        return squared if exponent == 2 else b.binary("MUL", squared, base if exponent == 3 else squared)
    if exponent in (0.5, -0.5):
        return b.unary("SQRT" if exponent > 0 else "RSQRT", base)
    return b.binary("POW", base, b.scalar(exponent, b.dtype))


@register(aten.square.default)
def square(b: Builder, self: Value) -> Value:
    """Square."""
    return b.binary("MUL", self, self)


@register(aten.reciprocal.default)
def reciprocal(b: Builder, self: Value) -> Value:
    """One divided by the value."""
    return b.binary("DIV", b.const(1, b.dtype), b.cast(self, b.dtype))


def _log_of(base: float) -> Any:
    def emit(b: Builder, self: Value) -> Value:
        return b.binary("MUL", b.unary("LOG", b.cast(self, b.dtype)), b.const(1 / math.log(base), b.dtype))

    return emit


register(aten.log2.default)(_log_of(2.0))
register(aten.log10.default)(_log_of(10.0))


@register(aten.log1p.default)
def log1p(b: Builder, self: Value) -> Value:
    """`log(1 + x)`."""
    return b.unary("LOG", b.binary("ADD", b.cast(self, b.dtype), b.const(1, b.dtype)))


@register(aten.maximum.default, aten.max.other)
def maximum(b: Builder, self: Value, other: Value) -> Value:
    """The larger of two."""
    return binary(b, "MAXIMUM", self, other)


@register(aten.minimum.default, aten.min.other)
def minimum(b: Builder, self: Value, other: Value) -> Value:
    """The smaller of two."""
    return binary(b, "MINIMUM", self, other)


def bounded(b: Builder, value: Value, low: Number | None, high: Number | None) -> Value:
    """The value, kept between two bounds."""
    value = b.cast(value, b.dtype)
    if low is not None:
        value = b.binary("MAXIMUM", value, b.scalar(low, b.dtype))
    return value if high is None else b.binary("MINIMUM", value, b.scalar(high, b.dtype))


@register(aten.clamp.default, aten.clamp.Tensor)
def clamp(b: Builder, self: Value, min: Number | None, max: Number | None) -> Value:
    """The value, kept between two bounds."""
    return bounded(b, self, min, max)


@register(aten.clamp_min.default, aten.clamp_min.Tensor)
def clamp_min(b: Builder, self: Value, min: Number) -> Value:
    """The value, at least `min`."""
    return bounded(b, self, min, None)


@register(aten.clamp_max.default, aten.clamp_max.Tensor)
def clamp_max(b: Builder, self: Value, max: Number) -> Value:
    """The value, at most `max`."""
    return bounded(b, self, None, max)


@register(aten.hardtanh.default)
def hardtanh(b: Builder, self: Value, min_val: Number, max_val: Number) -> Value:
    """The value, kept between two bounds."""
    return bounded(b, self, min_val, max_val)


@register(aten.hardsigmoid.default)
def hardsigmoid(b: Builder, self: Value) -> Value:
    """`clamp(x + 3, 0, 6) / 6`."""
    shifted = b.unary("RELU6", b.binary("ADD", self, b.const(3, self.dtype)))
    return b.binary("MUL", shifted, b.const(1 / 6, self.dtype))


@register(aten.leaky_relu.default)
def leaky_relu(b: Builder, self: Value, negative_slope: float) -> Value:
    """ReLU with a slope below zero."""
    return b.unary("LEAKY_RELU", self, alpha=float(negative_slope))


@register(aten.elu.default)
def elu(b: Builder, self: Value, alpha: float, scale: float, input_scale: float) -> Value:
    """Exponential linear unit."""
    if alpha == scale == input_scale == 1:
        return b.unary("ELU", self)
    scaled = b.binary("MUL", self, b.const(input_scale, self.dtype))
    negative = b.binary("SUB", b.unary("EXP", bounded(b, scaled, None, 0)), b.const(1, self.dtype))
    positive = b.binary("GREATER", self, b.const(0, self.dtype), "bool")
    chosen = b.select(positive, self, b.binary("MUL", negative, b.const(alpha, self.dtype)))
    return b.binary("MUL", chosen, b.const(scale, self.dtype))


@register(aten.softplus.default)
def softplus(b: Builder, self: Value, beta: float, threshold: float) -> Value:
    """`log(1 + exp(beta * x)) / beta`, as `max(x, 0) + log(1 + exp(-|beta * x|)) / beta`, which does not overflow."""
    scaled = self if beta == 1 else b.binary("MUL", self, b.const(beta, self.dtype))
    small = b.unary("EXP", b.unary("NEG", b.unary("ABS", scaled)))
    rest = b.unary("LOG", b.binary("ADD", small, b.const(1, self.dtype)))
    rest = rest if beta == 1 else b.binary("MUL", rest, b.const(1 / beta, self.dtype))
    return b.binary("ADD", b.unary("RELU", self), rest)


@register(aten.log_sigmoid.default)
def log_sigmoid(b: Builder, self: Value) -> Value:
    """`-softplus(-x)`."""
    return b.unary("NEG", softplus(b, b.unary("NEG", self), 1.0, 20.0))


@register(aten.prelu.default)
def prelu(b: Builder, self: Value, weight: Value) -> Value:
    """ReLU with a slope below zero for each channel."""
    slope = b.reshape(weight, [weight.size, *[1] * (self.rank - 2)]) if self.rank > 1 else weight
    below = b.binary("MUL", b.binary("MINIMUM", self, b.const(0, self.dtype)), slope)
    return b.binary("ADD", b.unary("RELU", self), below)
