"""Activation functions with their own formulas, and calls that compute nothing."""

from __future__ import annotations

import math
import operator
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from graphwright.ir.node import bound
from graphwright.lowering.onnx.table import Emission, Number, register
from graphwright.lowering.support import Support

aten = torch.ops.aten


@register(aten.gelu.default)
def gelu(b: Emission, self: ir.Value, approximate: str) -> ir.Value:
    """GELU, exact or with tanh; its own operator from opset 20."""
    if b.opset >= 20:
        return b.op("Gelu", self, approximate=approximate)
    dtype = b.result.dtype
    if approximate == "tanh":
        cube = b.op("Mul", b.op("Mul", self, self), self)
        inner = b.op("Add", self, b.op("Mul", cube, b.const(0.044715, dtype)))
        gate = b.op("Tanh", b.op("Mul", inner, b.const(math.sqrt(2 / math.pi), dtype)))
    else:
        gate = b.op("Erf", b.op("Mul", self, b.const(math.sqrt(0.5), dtype)))
    half = b.op("Mul", self, b.const(0.5, dtype))
    return b.op("Mul", half, b.op("Add", gate, b.const(1, dtype)))


@register(aten.silu.default)
def silu(b: Emission, self: ir.Value) -> ir.Value:
    """`x * sigmoid(x)`."""
    return b.op("Mul", self, b.op("Sigmoid", self))


@register(aten.mish.default)
def mish(b: Emission, self: ir.Value) -> ir.Value:
    """`x * tanh(softplus(x))`."""
    return b.op("Mul", self, b.op("Tanh", b.op("Softplus", self)))


@register(aten.softplus.default)
def softplus(b: Emission, self: ir.Value, beta: Number, threshold: Number) -> ir.Value:
    """`log(1 + exp(beta * x)) / beta`, the identity above the threshold."""
    dtype = b.result.dtype
    scaled = b.op("Mul", self, b.scalar(beta, dtype))
    soft = b.op("Div", b.op("Softplus", scaled), b.scalar(beta, dtype))
    return b.op("Where", b.op("Greater", scaled, b.scalar(threshold, dtype), dtype=torch.bool), self, soft, dtype=dtype)


@register(aten.leaky_relu.default)
def leaky_relu(b: Emission, self: ir.Value, negative_slope: float) -> ir.Value:
    """Leaky ReLU."""
    return b.op("LeakyRelu", self, alpha=float(negative_slope))


@register(aten.elu.default, validate=lambda node: _plain_elu(node))
def elu(b: Emission, self: ir.Value, alpha: float, scale: Number, input_scale: Number) -> ir.Value:
    """ELU."""
    return b.op("Elu", self, alpha=float(alpha))


def _plain_elu(node: Node) -> Support:
    arguments = bound(node)
    plain = arguments["scale"] == 1 and arguments["input_scale"] == 1
    return Support.yes() if plain else Support.no("elu with another scale than 1")


@register(aten.hardsigmoid.default)
def hardsigmoid(b: Emission, self: ir.Value) -> ir.Value:
    """`clamp(x / 6 + 1/2, 0, 1)`."""
    return b.op("HardSigmoid", self, alpha=1 / 6, beta=0.5)


@register(aten.prelu.default)
def prelu(b: Emission, self: ir.Value, weight: ir.Value) -> ir.Value:
    """ReLU with a learnt slope per channel."""
    if b.rank(self) > 2 and b.rank(weight) == 1:
        weight = b.op("Unsqueeze", weight, b.axes(list(range(1, b.rank(self) - 1))))
    return b.op("PRelu", self, weight)


@register(aten.log_sigmoid.default)
def log_sigmoid(b: Emission, self: ir.Value) -> ir.Value:
    """`-softplus(-x)`, which does not overflow."""
    return b.op("Neg", b.op("Softplus", b.op("Neg", self)))


# ---- calls that compute nothing --------------------------------------------------------------


@register(
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.detach_.default,
    aten.lift_fresh_copy.default,
    aten.resolve_conj.default,
    aten.resolve_neg.default,
    aten.to.device,
)
def same(b: Emission, **arguments: Any) -> ir.Value:
    """The argument itself, in the type of the result (`to` may cast)."""
    return b.cast(next(iter(arguments.values())), b.result.dtype)


def _inactive(node: Node) -> Support:
    arguments = bound(node)
    if arguments.get("train") or arguments.get("training"):
        return Support.no("dropout in training mode", remedy="capture the model after model.eval()")
    return Support.yes()


@register(aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, validate=_inactive)
def dropout(b: Emission, input: ir.Value, p: float, train: bool) -> ir.Value:
    """Inactive dropout: the input itself."""
    return input


@register(
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten._assert_tensor_metadata.default,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
)
def check(b: Emission, **arguments: Any) -> None:
    """A check of the traced program; the artifact checks its inputs itself."""


@register(operator.getitem)
def getitem(b: Emission, arg0: Any, arg1: int) -> Any:
    """One of several results."""
    return arg0[arg1]
