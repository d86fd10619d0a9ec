"""Arithmetic and activation functions, element by element."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import torch

from graphwright.ir.node import is_call
from graphwright.lowering.onnx.table import Emission, Number, register

aten = torch.ops.aten


def _unary(kind: str, *targets: Any) -> None:
    """Register ops that ONNX has under another name; integers are computed as the floats that torch returns."""

    def emit(b: Emission, self: ir.Value) -> ir.Value:
        return b.op(kind, b.cast(self, b.result.dtype))

    register(*targets)(emit)


for _kind, _targets in {
    "Abs": [aten.abs.default],
    "Acos": [aten.acos.default],
    "Asin": [aten.asin.default],
    "Atan": [aten.atan.default],
    "Ceil": [aten.ceil.default],
    "Cos": [aten.cos.default],
    "Cosh": [aten.cosh.default],
    "Erf": [aten.erf.default],
    "Exp": [aten.exp.default],
    "Floor": [aten.floor.default],
    "HardSwish": [aten.hardswish.default],
    "Log": [aten.log.default],
    "Neg": [aten.neg.default],
    "Reciprocal": [aten.reciprocal.default],
    "Relu": [aten.relu.default],
    "Round": [aten.round.default],
    "Sigmoid": [aten.sigmoid.default],
    "Sign": [aten.sign.default, aten.sgn.default],
    "Sin": [aten.sin.default],
    "Sinh": [aten.sinh.default],
    "Sqrt": [aten.sqrt.default],
    "Tan": [aten.tan.default],
    "Tanh": [aten.tanh.default],
}.items():
    _unary(_kind, *_targets)


def binary(b: Emission, kind: str, left: Number, right: Number) -> ir.Value:
    """A binary operator in the type that torch computes in, then in the type of the result."""
    return b.cast(b.op(kind, *b.promote(left, right)), b.result.dtype)


def _scaled(b: Emission, value: Number, alpha: Number) -> Number:
    """`value * alpha`, as the `alpha` of `add` and `sub`."""
    if alpha == 1:
        return value
    if not isinstance(value, ir.Value):
        return value * alpha  # type: ignore[operator, return-value]
    product = b.op("Mul", value, b.scalar(alpha, b.fake(value).dtype))
    b.annotate(product, b.fake(value))
    return product


def _feeds_norm(b: Emission) -> bool:
    """Whether the result is read by a norm over its last dimension."""
    users = b.node.users if b.node is not None else ()
    return any(is_call(user, aten.layer_norm, aten.native_layer_norm, aten.rms_norm) for user in users)


@register(aten.add.Tensor, aten.add.Scalar)
def add(b: Emission, self: ir.Value, other: Number, alpha: Number) -> ir.Value:
    """`self + alpha * other`; of booleans, the disjunction.

    A sum that a norm reads is a `Sum`: ONNX Runtime fuses `Add` and a norm into an operator that is several times
    slower than the two.
    """
    if alpha == 1 and isinstance(other, ir.Value) and _feeds_norm(b) and self.dtype == other.dtype:
        return b.op("Sum", self, other)
    return binary(b, "Or" if b.result.dtype == torch.bool else "Add", self, _scaled(b, other, alpha))


@register(aten.sub.Tensor, aten.sub.Scalar)
def sub(b: Emission, self: ir.Value, other: Number, alpha: Number) -> ir.Value:
    """`self - alpha * other`."""
    return binary(b, "Sub", self, _scaled(b, other, alpha))


@register(aten.rsub.Tensor, aten.rsub.Scalar)
def rsub(b: Emission, self: ir.Value, other: Number, alpha: Number) -> ir.Value:
    """`other - alpha * self`."""
    return binary(b, "Sub", other, _scaled(b, self, alpha))


@register(aten.mul.Tensor, aten.mul.Scalar)
def mul(b: Emission, self: ir.Value, other: Number) -> ir.Value:
    """Product; of booleans, the conjunction."""
    return binary(b, "And" if b.result.dtype == torch.bool else "Mul", self, other)


@register(aten.div.Tensor, aten.div.Scalar)
def div(b: Emission, self: ir.Value, other: Number) -> ir.Value:
    """Quotient; of integers, as floats."""
    dtype = b.result.dtype
    return b.op("Div", b.scalar(self, dtype), b.scalar(other, dtype))


@register(aten.div.Tensor_mode, aten.div.Scalar_mode)
def div_mode(b: Emission, self: ir.Value, other: Number, rounding_mode: str | None) -> ir.Value:
    """Quotient rounded down (`floor`) or towards zero (`trunc`)."""
    if rounding_mode is None:
        return div(b, self, other)
    if rounding_mode == "floor":
        return floor_divide(b, self, other)
    left, right = b.promote(self, other)
    quotient = b.op("Div", left, right)
    if not b.result.dtype.is_floating_point:
        return quotient
    return b.op("Mul", b.op("Sign", quotient), b.op("Floor", b.op("Abs", quotient)))


@register(aten.floor_divide.default, aten.floor_divide.Scalar)
def floor_divide(b: Emission, self: ir.Value, other: Number) -> ir.Value:
    """Quotient rounded down; ONNX divides integers towards zero, so the remainder goes first."""
    left, right = b.promote(self, other)
    if b.result.dtype.is_floating_point:
        return b.op("Floor", b.op("Div", left, right))
    return b.op("Div", b.op("Sub", left, b.op("Mod", left, right, fmod=0)), right)


@register(aten.remainder.Tensor, aten.remainder.Scalar)
def remainder(b: Emission, self: ir.Value, other: Number) -> ir.Value:
    """Remainder with the sign of the divisor."""
    left, right = b.promote(self, other)
    if not b.result.dtype.is_floating_point:
        return b.op("Mod", left, right, fmod=0)
    return b.op("Sub", left, b.op("Mul", b.op("Floor", b.op("Div", left, right)), right))


@register(aten.fmod.Tensor, aten.fmod.Scalar)
def fmod(b: Emission, self: ir.Value, other: Number) -> ir.Value:
    """Remainder with the sign of the dividend."""
    return b.op("Mod", *b.promote(self, other), fmod=1)


@register(aten.pow.Tensor_Scalar)
def pow_scalar(b: Emission, self: ir.Value, exponent: Number) -> ir.Value:
    """Power; squares, roots and reciprocals by their own operators."""
    value = b.cast(self, b.result.dtype)
    if exponent == 2:
        return b.op("Mul", value, value)
    if exponent == 1:
        return value
    if b.result.dtype.is_floating_point and exponent in (0.5, -0.5, -1):
        root = value if exponent == -1 else b.op("Sqrt", value)
        return root if exponent == 0.5 else b.op("Reciprocal", root)
    return b.op("Pow", value, b.scalar(exponent, b.result.dtype))


@register(aten.pow.Tensor_Tensor, aten.pow.Scalar)
def pow_tensor(b: Emission, self: Number, exponent: ir.Value) -> ir.Value:
    """Power of a number or tensor to a tensor."""
    return b.op("Pow", *b.promote(self, exponent))


@register(aten.rsqrt.default)
def rsqrt(b: Emission, self: ir.Value) -> ir.Value:
    """Reciprocal of the square root."""
    return b.op("Reciprocal", b.op("Sqrt", b.cast(self, b.result.dtype)))


@register(aten.square.default)
def square(b: Emission, self: ir.Value) -> ir.Value:
    """Square."""
    return b.op("Mul", self, self)


def _log_of(base: float) -> Any:
    def emit(b: Emission, self: ir.Value) -> ir.Value:
        dtype = b.result.dtype
        return b.op("Mul", b.op("Log", b.cast(self, dtype)), b.const(1 / math.log(base), dtype))

    return emit


register(aten.log2.default)(_log_of(2.0))
register(aten.log10.default)(_log_of(10.0))


@register(aten.log1p.default)
def log1p(b: Emission, self: ir.Value) -> ir.Value:
    """`log(1 + x)`."""
    dtype = b.result.dtype
    return b.op("Log", b.op("Add", b.cast(self, dtype), b.const(1, dtype)))


@register(aten.maximum.default, aten.max.other)
def maximum(b: Emission, self: ir.Value, other: ir.Value) -> ir.Value:
    """The larger of two."""
    return b.op("Max", *b.promote(self, other))


@register(aten.minimum.default, aten.min.other)
def minimum(b: Emission, self: ir.Value, other: ir.Value) -> ir.Value:
    """The smaller of two."""
    return b.op("Min", *b.promote(self, other))


def _bounded(b: Emission, self: ir.Value, low: Number | None, high: Number | None) -> ir.Value:
    dtype = b.result.dtype
    value = b.cast(self, dtype)
    if low is not None:
        value = b.op("Max", value, b.scalar(low, dtype))
    return value if high is None else b.op("Min", value, b.scalar(high, dtype))


@register(aten.clamp.default, aten.clamp.Tensor)
def clamp(b: Emission, self: ir.Value, min: Number | None, max: Number | None) -> ir.Value:
    """The value, kept between two bounds."""
    return _bounded(b, self, min, max)


@register(aten.clamp_min.default, aten.clamp_min.Tensor)
def clamp_min(b: Emission, self: ir.Value, min: Number) -> ir.Value:
    """The value, at least `min`."""
    return _bounded(b, self, min, None)


@register(aten.clamp_max.default, aten.clamp_max.Tensor)
def clamp_max(b: Emission, self: ir.Value, max: Number) -> ir.Value:
    """The value, at most `max`."""
    return _bounded(b, self, None, max)


@register(aten.hardtanh.default)
def hardtanh(b: Emission, self: ir.Value, min_val: Number, max_val: Number) -> ir.Value:
    """The value, kept between two bounds."""
    return _bounded(b, self, min_val, max_val)


@register(aten.relu6.default)
def relu6(b: Emission, self: ir.Value) -> ir.Value:
    """The value, kept between 0 and 6."""
    return _bounded(b, self, 0, 6)
