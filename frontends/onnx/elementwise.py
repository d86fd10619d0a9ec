"""Elementwise ONNX operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F

from graphwright.frontends.onnx.table import Call, register
from graphwright.frontends.onnx.values import dtype_of, is_scalar, number, rank_of, tensor

_UNARY: dict[str, Callable[..., torch.Tensor]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
    "Atan": torch.atan, "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh,
    "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "Log": torch.log, "Neg": torch.neg,
    "Reciprocal": torch.reciprocal, "Relu": F.relu, "Round": torch.round, "Sigmoid": torch.sigmoid,
    "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh, "Softplus": F.softplus, "Softsign": F.softsign,
    "Sqrt": torch.sqrt, "Tan": torch.tan, "Tanh": torch.tanh, "Not": torch.logical_not, "IsNaN": torch.isnan,
    "BitwiseNot": torch.bitwise_not, "HardSwish": F.hardswish, "Mish": F.mish,
}  # fmt: skip
_BINARY: dict[str, Callable[..., torch.Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Equal": torch.eq, "Greater": torch.gt,
    "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le, "And": torch.logical_and,
    "Or": torch.logical_or, "Xor": torch.logical_xor, "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor,
}  # fmt: skip
_NEED_TENSORS = {"And", "Or", "Xor"}
_SWAPPED = {"Greater": "Less", "Less": "Greater", "GreaterOrEqual": "LessOrEqual", "LessOrEqual": "GreaterOrEqual"}


def operands(a: Any, b: Any) -> tuple[Any, Any]:
    """Two operands, of which a single known number stays a number where it does not add a dimension."""
    if is_scalar(b) and rank_of(b) <= rank_of(a):
        return tensor(a), number(b)
    if is_scalar(a) and rank_of(a) <= rank_of(b):
        return number(a), tensor(b)
    return tensor(a), tensor(b)


@register(*_UNARY)
def unary(call: Call, x: Any) -> torch.Tensor:
    """A function of one tensor."""
    return _UNARY[call.node.op_type](tensor(x))


@register(*_BINARY)
def binary(call: Call, a: Any, b: Any) -> torch.Tensor:
    """A function of two tensors, or of a tensor and a number."""
    kind = call.node.op_type
    if kind in _NEED_TENSORS:
        return _BINARY[kind](tensor(a), tensor(b))
    left, right = operands(a, b)
    if isinstance(left, torch.Tensor):
        return _BINARY[kind](left, right)
    if kind == "Sub":
        return torch.rsub(right, left)
    return _BINARY[_SWAPPED.get(kind, kind)](right, left)


@register("Div")
def divide(call: Call, a: Any, b: Any) -> torch.Tensor:
    """Division; of whole numbers, cut off toward zero."""
    left, right = operands(a, b)
    if not dtype_of(a).is_floating_point:
        return torch.div(tensor(a), right, rounding_mode="trunc")
    return torch.div(left, right) if isinstance(left, torch.Tensor) else torch.reciprocal(right) * left


@register("Pow")
def power(call: Call, x: Any, exponent: Any) -> torch.Tensor:
    """A power, in the element type of the base."""
    base, exponent = tensor(x), number(exponent) if is_scalar(exponent) else tensor(exponent)
    if isinstance(exponent, float) and exponent.is_integer():
        exponent = int(exponent)
    return torch.pow(base, exponent).to(base.dtype)


@register("Mod")
def modulo(call: Call, a: Any, b: Any) -> torch.Tensor:
    """Remainder with the sign of the divisor, or with fmod=1 that of the dividend."""
    left, right = operands(a, b)
    return torch.fmod(tensor(a), right) if call.attr("fmod", 0) else torch.remainder(left, right)


@register("Max", "Min", "Sum", "Mean")
def several(call: Call, *inputs: Any) -> torch.Tensor:
    """Elementwise largest, smallest, sum or mean of several tensors."""
    kind = call.node.op_type
    if len(inputs) == 2 and kind in ("Max", "Min"):
        left, right = operands(*inputs)
        left, right = (left, right) if isinstance(left, torch.Tensor) else (right, left)
        if not isinstance(right, torch.Tensor):
            return torch.clamp(left, min=right) if kind == "Max" else torch.clamp(left, max=right)
    parts = [tensor(x) for x in inputs]
    function = {"Max": torch.maximum, "Min": torch.minimum}.get(kind, torch.add)
    total = reduce(function, parts)
    return total / len(parts) if kind == "Mean" else total


@register("Clip")
def clip(call: Call, x: Any, low: Any = None, high: Any = None) -> torch.Tensor:
    """Values within bounds."""
    bounds = [None if b is None else number(b) if is_scalar(b) else tensor(b) for b in (low, high)]
    x = tensor(x)
    if any(isinstance(b, torch.Tensor) for b in bounds):
        bounds = [b if b is None or isinstance(b, torch.Tensor) else x.new_tensor(b) for b in bounds]
    return x if bounds == [None, None] else torch.clamp(x, *bounds)


@register("Where")
def where(call: Call, condition: Any, a: Any, b: Any) -> torch.Tensor:
    """One of two values each."""
    condition = tensor(condition)
    if is_scalar(b) and not is_scalar(a) and rank_of(b) <= max(rank_of(a), condition.dim()):
        return torch.where(condition, tensor(a), number(b))
    if is_scalar(a) and not is_scalar(b) and rank_of(a) <= max(rank_of(b), condition.dim()):
        return torch.where(condition, number(a), tensor(b))
    return torch.where(condition, tensor(a), tensor(b))


@register("Cast")
def cast(call: Call, x: Any) -> torch.Tensor:
    """Another element type."""
    return tensor(x).to(call.dtype("to"))


@register("CastLike")
def cast_like(call: Call, x: Any, other: Any) -> torch.Tensor:
    """The element type of another value."""
    return tensor(x).to(dtype_of(other))


@register("IsInf")
def is_infinite(call: Call, x: Any) -> torch.Tensor:
    """Whether a value is infinite, of either sign or of one."""
    x, positive, negative = tensor(x), call.attr("detect_positive", 1), call.attr("detect_negative", 1)
    if positive and negative:
        return torch.isinf(x)
    return torch.isposinf(x) if positive else torch.isneginf(x)


@register("BitShift")
def shift(call: Call, x: Any, by: Any) -> torch.Tensor:
    """Bits moved to the left or right."""
    function = torch.bitwise_left_shift if call.attr("direction") == "LEFT" else torch.bitwise_right_shift
    return function(tensor(x), tensor(by))


# ---- activations -----------------------------------------------------------------------------


@register("Gelu")
def gelu(call: Call, x: Any) -> torch.Tensor:
    """GELU, exact or by tanh."""
    return F.gelu(tensor(x), approximate=call.attr("approximate", "none"))


@register("LeakyRelu")
def leaky_relu(call: Call, x: Any) -> torch.Tensor:
    """ReLU with a slope below zero."""
    return F.leaky_relu(tensor(x), call.attr("alpha", 0.01))


@register("PRelu")
def prelu(call: Call, x: Any, slope: Any) -> torch.Tensor:
    """ReLU with slopes below zero that are inputs."""
    x = tensor(x)
    return torch.where(x < 0, x * tensor(slope), x)


@register("Elu", "Celu")
def elu(call: Call, x: Any) -> torch.Tensor:
    """Exponential linear units."""
    return (F.elu if call.node.op_type == "Elu" else F.celu)(tensor(x), call.attr("alpha", 1.0))


@register("Selu")
def selu(call: Call, x: Any) -> torch.Tensor:
    """Scaled exponential linear unit."""
    x, alpha, gamma = tensor(x), call.attr("alpha"), call.attr("gamma")
    return F.selu(x) if alpha is None and gamma is None else F.elu(x, alpha or 1.67326) * (gamma or 1.0507)


@register("HardSigmoid")
def hard_sigmoid(call: Call, x: Any) -> torch.Tensor:
    """clamp(alpha * x + beta, 0, 1)."""
    return torch.clamp(tensor(x) * call.attr("alpha", 0.2) + call.attr("beta", 0.5), 0, 1)


@register("Swish")
def swish(call: Call, x: Any) -> torch.Tensor:
    """Swish: x * sigmoid(alpha * x)."""
    x, alpha = tensor(x), call.attr("alpha", 1.0)
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(x * alpha)


@register("ThresholdedRelu")
def thresholded_relu(call: Call, x: Any) -> torch.Tensor:
    """The value where it is above alpha, else zero."""
    return F.threshold(tensor(x), call.attr("alpha", 1.0), 0.0)
