"""Arithmetic and activation functions, element by element."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphwright.lowering.openvino.builder import Builder, Number, Value, op
from graphwright.lowering.openvino.table import register

aten = torch.ops.aten

_UNARY = {
    aten.abs.default: op.abs, aten.acos.default: op.acos, aten.asin.default: op.asin, aten.atan.default: op.atan,
    aten.ceil.default: op.ceil, aten.cos.default: op.cos, aten.cosh.default: op.cosh, aten.erf.default: op.erf,
    aten.exp.default: op.exp, aten.floor.default: op.floor, aten.hardswish.default: op.hswish,
    aten.log.default: op.log, aten.mish.default: op.mish, aten.neg.default: op.negative, aten.relu.default: op.relu,
    aten.sigmoid.default: op.sigmoid, aten.sign.default: op.sign, aten.sgn.default: op.sign, aten.sin.default: op.sin,
    aten.sinh.default: op.sinh, aten.sqrt.default: op.sqrt, aten.tan.default: op.tan, aten.tanh.default: op.tanh,
}  # fmt: skip


def _unary(target: Any, function: Any) -> None:
    def emit(b: Builder, self: Value) -> Any:
        return function(b.cast(self, b.result.dtype))

    register(target)(emit)


for _target, _function in _UNARY.items():
    _unary(_target, _function)


@register(aten.round.default)
def rounded(b: Builder, self: Value) -> Any:
    """The nearest whole number, the even one of two."""
    return op.round(self.out, "half_to_even")


@register(aten.silu.default)
def silu(b: Builder, self: Value) -> Any:
    """X * sigmoid(x)."""
    return op.swish(self.out)


@register(aten.gelu.default)
def gelu(b: Builder, self: Value, approximate: str) -> Any:
    """GELU, exact or by tanh."""
    return op.gelu(self.out, "tanh" if approximate == "tanh" else "erf")


def binary(b: Builder, function: Any, left: Number, right: Number) -> Any:
    """A binary operator in the type that torch computes in, then in the type of the result."""
    return b.cast(function(*b.promote(left, right)).output(0), b.result.dtype)


def _scaled(b: Builder, value: Number, alpha: Number) -> Number:
    if alpha == 1:
        return value
    if not isinstance(value, Value):
        return value * alpha
    return Value(op.multiply(value.out, b.scalar(alpha, value.dtype)).output(0), value.fake)


@register(aten.add.Tensor, aten.add.Scalar)
def add(b: Builder, self: Value, other: Number, alpha: Number) -> Any:
    """`self + alpha * other`; of booleans, the disjunction."""
    return binary(b, op.logical_or if b.result.dtype is torch.bool else op.add, self, _scaled(b, other, alpha))


@register(aten.sub.Tensor, aten.sub.Scalar)
def sub(b: Builder, self: Value, other: Number, alpha: Number) -> Any:
    """`self - alpha * other`."""
    return binary(b, op.subtract, self, _scaled(b, other, alpha))


@register(aten.rsub.Tensor, aten.rsub.Scalar)
def rsub(b: Builder, self: Value, other: Number, alpha: Number) -> Any:
    """`other - alpha * self`."""
    return binary(b, op.subtract, other, _scaled(b, self, alpha))


@register(aten.mul.Tensor, aten.mul.Scalar)
def mul(b: Builder, self: Value, other: Number) -> Any:
    """Product; of booleans, the conjunction."""
    return binary(b, op.logical_and if b.result.dtype is torch.bool else op.multiply, self, other)


@register(aten.div.Tensor, aten.div.Scalar)
def div(b: Builder, self: Value, other: Number) -> Any:
    """Quotient; of integers, as floats."""
    return op.divide(b.scalar(self, b.result.dtype), b.scalar(other, b.result.dtype))


@register(aten.div.Tensor_mode, aten.div.Scalar_mode)
def div_mode(b: Builder, self: Value, other: Number, rounding_mode: str | None) -> Any:
    """Quotient rounded down (`floor`) or towards zero (`trunc`)."""
    if rounding_mode is None:
        return div(b, self, other)
    if rounding_mode == "floor":
        return floor_divide(b, self, other)
    quotient = op.divide(*b.promote(self, other)).output(0)
    if not b.result.dtype.is_floating_point:
        return quotient
    return op.multiply(op.sign(quotient), op.floor(op.abs(quotient)))


@register(aten.floor_divide.default, aten.floor_divide.Scalar)
def floor_divide(b: Builder, self: Value, other: Number) -> Any:
    """Quotient rounded down."""
    left, right = b.promote(self, other)
    if b.result.dtype.is_floating_point:
        return op.floor(op.divide(left, right))
    return op.divide(op.subtract(left, op.floor_mod(left, right)), right)


@register(aten.remainder.Tensor, aten.remainder.Scalar)
def remainder(b: Builder, self: Value, other: Number) -> Any:
    """Remainder with the sign of the divisor."""
    return op.floor_mod(*b.promote(self, other))


@register(aten.fmod.Tensor, aten.fmod.Scalar)
def fmod(b: Builder, self: Value, other: Number) -> Any:
    """Remainder with the sign of the dividend."""
    return op.mod(*b.promote(self, other))


@register(aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar)
def power(b: Builder, self: Number, exponent: Number) -> Any:
    """Power."""
    if exponent == 2 and isinstance(self, Value):
        value = b.cast(self, b.result.dtype)
        return op.multiply(value, value)
    return op.power(b.scalar(self, b.result.dtype), b.scalar(exponent, b.result.dtype))


@register(aten.square.default)
def square(b: Builder, self: Value) -> Any:
    """Square."""
    return op.multiply(self.out, self.out)


@register(aten.rsqrt.default)
def rsqrt(b: Builder, self: Value) -> Any:
    """Reciprocal of the square root."""
    return op.power(b.cast(self, b.result.dtype), b.const(-0.5, b.result.dtype))


@register(aten.reciprocal.default)
def reciprocal(b: Builder, self: Value) -> Any:
    """One divided by the value."""
    return op.divide(b.const(1, b.result.dtype), b.cast(self, b.result.dtype))


def _log_of(base: float) -> Any:
    def emit(b: Builder, self: Value) -> Any:
        dtype = b.result.dtype
        return op.multiply(op.log(b.cast(self, dtype)), b.const(1 / math.log(base), dtype))

    return emit


register(aten.log2.default)(_log_of(2.0))
register(aten.log10.default)(_log_of(10.0))


@register(aten.log1p.default)
def log1p(b: Builder, self: Value) -> Any:
    """`log(1 + x)`."""
    return op.log(op.add(b.cast(self, b.result.dtype), b.const(1, b.result.dtype)))


@register(aten.maximum.default, aten.max.other)
def maximum(b: Builder, self: Value, other: Value) -> Any:
    """The larger of two."""
    return op.maximum(*b.promote(self, other))


@register(aten.minimum.default, aten.min.other)
def minimum(b: Builder, self: Value, other: Value) -> Any:
    """The smaller of two."""
    return op.minimum(*b.promote(self, other))


def _bounded(b: Builder, value: Any, low: Number | None, high: Number | None) -> Any:
    dtype = b.result.dtype
    out = b.cast(value, dtype)
    if low is not None:
        out = op.maximum(out, b.scalar(low, dtype)).output(0)
    return out if high is None else op.minimum(out, b.scalar(high, dtype))


@register(aten.clamp.default, aten.clamp.Tensor)
def clamp(b: Builder, self: Value, min: Number | None, max: Number | None) -> Any:
    """The value, kept between two bounds."""
    return _bounded(b, self, min, max)


@register(aten.clamp_min.default, aten.clamp_min.Tensor)
def clamp_min(b: Builder, self: Value, min: Number) -> Any:
    """The value, at least `min`."""
    return _bounded(b, self, min, None)


@register(aten.clamp_max.default, aten.clamp_max.Tensor)
def clamp_max(b: Builder, self: Value, max: Number) -> Any:
    """The value, at most `max`."""
    return _bounded(b, self, None, max)


@register(aten.hardtanh.default)
def hardtanh(b: Builder, self: Value, min_val: Number, max_val: Number) -> Any:
    """The value, kept between two bounds."""
    return _bounded(b, self, min_val, max_val)


@register(aten.relu6.default)
def relu6(b: Builder, self: Value) -> Any:
    """The value, kept between 0 and 6."""
    return _bounded(b, self, 0, 6)


@register(aten.hardsigmoid.default)
def hardsigmoid(b: Builder, self: Value) -> Any:
    """clamp(x / 6 + 1 / 2, 0, 1)."""
    return op.hard_sigmoid(self.out, b.const(1 / 6, self.dtype), b.const(0.5, self.dtype))


@register(aten.leaky_relu.default)
def leaky_relu(b: Builder, self: Value, negative_slope: float) -> Any:
    """ReLU with a slope below zero."""
    return op.prelu(self.out, b.const(negative_slope, self.dtype))


@register(aten.elu.default)
def elu(b: Builder, self: Value, alpha: float, scale: float, input_scale: float) -> Any:
    """Exponential linear unit."""
    scaled = op.multiply(self.out, b.const(input_scale, self.dtype))
    negative = op.multiply(op.subtract(op.exp(scaled), b.const(1, self.dtype)), b.const(alpha, self.dtype))
    chosen = op.select(op.greater(self.out, b.const(0, self.dtype)), self.out, negative)
    return op.multiply(chosen, b.const(scale, self.dtype))


@register(aten.softplus.default)
def softplus(b: Builder, self: Value, beta: float, threshold: float) -> Any:
    """log(1 + exp(beta * x)) / beta, and x itself where beta * x is above the threshold."""
    scaled = op.multiply(self.out, b.const(beta, self.dtype))
    smooth = op.divide(op.softplus(scaled), b.const(beta, self.dtype))
    return op.select(op.greater(scaled, b.const(threshold, self.dtype)), self.out, smooth)


@register(aten.log_sigmoid.default)
def log_sigmoid(b: Builder, self: Value) -> Any:
    """-softplus(-x)."""
    return op.negative(op.softplus(op.negative(self.out)))


@register(aten.prelu.default)
def prelu(b: Builder, self: Value, weight: Value) -> Any:
    """ReLU with a slope below zero for each channel."""
    return op.prelu(self.out, weight.out)
