"""Activation functions."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.lowering.neuron.builder import Builder, Number, Out, Value, sizes
from graphwright.lowering.neuron.calls import fused
from graphwright.lowering.neuron.elementwise import bounded
from graphwright.lowering.neuron.reduce import wide
from graphwright.lowering.neuron.table import register
from graphwright.lowering.neuron.xla import hlo

aten = torch.ops.aten


@register(aten.gelu.default)
def gelu(b: Builder, self: Value, approximate: str) -> Any:
    """GELU, exact or by tanh."""
    return fused(b, "AwsNeuronGeluApprxTanh" if approximate == "tanh" else "AwsNeuronGelu", [self.out])


@register(aten.silu.default)
def silu(b: Builder, self: Value) -> Any:
    """`x * sigmoid(x)`."""
    return fused(b, "AwsNeuronSilu", [self.out])


@register(aten.relu.default)
def relu(b: Builder, self: Value) -> Any:
    """The value, at least 0."""
    return bounded(b, self, 0, None)


@register(aten.hardtanh.default)
def hardtanh(b: Builder, self: Value, min_val: Number, max_val: Number) -> Any:
    """The value, kept between two bounds."""
    return bounded(b, self, min_val, max_val)


@register(aten.relu6.default)
def relu6(b: Builder, self: Value) -> Any:
    """The value, kept between 0 and 6."""
    return bounded(b, self, 0, 6)


def _hard_gate(b: Builder, out: Out) -> Out:
    """`clamp(x / 6 + 1/2, 0, 1)`."""
    line = hlo.add(hlo.multiply(out, b.like(1 / 6, out)), b.like(0.5, out))
    return hlo.minimum(hlo.maximum(line, b.like(0, out)), b.like(1, out))


@register(aten.hardsigmoid.default)
def hardsigmoid(b: Builder, self: Value) -> Any:
    """`clamp(x / 6 + 1/2, 0, 1)`."""
    return _hard_gate(b, self.out)


@register(aten.hardswish.default)
def hardswish(b: Builder, self: Value) -> Any:
    """`x * clamp(x / 6 + 1/2, 0, 1)`."""
    return hlo.multiply(self.out, _hard_gate(b, self.out))


@register(aten.leaky_relu.default)
def leaky_relu(b: Builder, self: Value, negative_slope: float) -> Any:
    """ReLU with a slope below zero."""
    return _sloped(b, self.out, b.like(negative_slope, self.out))


@register(aten.prelu.default, aten._prelu_kernel.default)
def prelu(b: Builder, self: Value, weight: Value) -> Any:
    """ReLU with a slope below zero for each channel."""
    slope = weight.out
    if self.rank > 1 and weight.rank == 1:
        slope = b.reshape(slope, [1, weight.shape[0], *[1] * (self.rank - 2)])
    return _sloped(b, self.out, b.broadcast(slope, self.shape))


def _sloped(b: Builder, out: Out, slope: Out) -> Out:
    return b.select(b.compare("GT", out, b.like(0, out)), out, hlo.multiply(out, slope))


@register(aten.elu.default)
def elu(b: Builder, self: Value, alpha: float, scale: float, input_scale: float) -> Any:
    """Exponential linear unit."""
    scaled = hlo.multiply(self.out, b.like(input_scale, self.out))
    negative = hlo.multiply(hlo.exponential_minus_one(scaled), b.like(alpha, self.out))
    chosen = b.select(b.compare("GT", self.out, b.like(0, self.out)), self.out, negative)
    return hlo.multiply(chosen, b.like(scale, self.out))


def softened(b: Builder, out: Out) -> Out:
    """`log(1 + exp(x))`, without overflow."""
    tail = hlo.log_plus_one(hlo.exponential(hlo.negate(hlo.abs(out))))
    return hlo.add(hlo.maximum(out, b.like(0, out)), tail)


@register(aten.softplus.default)
def softplus(b: Builder, self: Value, beta: float, threshold: float) -> Any:
    """`log(1 + exp(beta * x)) / beta`, and x itself where beta * x is above the threshold."""
    data = wide(b, self.out)
    scaled = hlo.multiply(data, b.like(beta, data))
    smooth = hlo.divide(softened(b, scaled), b.like(beta, data))
    return b.cast(b.select(b.compare("GT", scaled, b.like(threshold, data)), data, smooth), self.dtype)


@register(aten.mish.default)
def mish(b: Builder, self: Value) -> Any:
    """`x * tanh(softplus(x))`."""
    data = wide(b, self.out)
    return b.cast(hlo.multiply(data, hlo.tanh(softened(b, data))), self.dtype)


@register(aten.log_sigmoid.default, aten.log_sigmoid_forward.default)
def log_sigmoid(b: Builder, self: Value) -> Any:
    """`-softplus(-x)`."""
    data = wide(b, self.out)
    result = b.cast(hlo.negate(softened(b, hlo.negate(data))), self.dtype)
    return result if isinstance(b.result, torch.Tensor) else [result, b.like(0, result)]


@register(aten.glu.default)
def glu(b: Builder, self: Value, dim: int) -> Any:
    """The first half, gated by the second."""
    axis, count = dim % self.rank, self.shape[dim] // 2
    first, gate = b.slice(self.out, axis, 0, count), b.slice(self.out, axis, count, 2 * count)
    return hlo.multiply(first, hlo.logistic(b.broadcast(gate, sizes(first))))
