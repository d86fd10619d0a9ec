"""Normalizations; half precision is computed in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphwright.lowering.neuron.builder import Builder, Out, Value, sizes
from graphwright.lowering.neuron.calls import fused
from graphwright.lowering.neuron.reduce import mean, wide
from graphwright.lowering.neuron.table import register
from graphwright.lowering.neuron.xla import hlo

aten = torch.ops.aten


def _standardized(b: Builder, out: Out, axes: Sequence[int], eps: float) -> tuple[Out, Out, Out]:
    """A value with mean 0 and variance 1 over some dimensions; and the mean and the inverse deviation."""
    middle = mean(b, out, axes, True)
    centred = hlo.subtract(out, b.broadcast(middle, sizes(out)))
    variance = mean(b, hlo.multiply(centred, centred), axes, True)
    inverse = hlo.rsqrt(hlo.add(variance, b.like(eps, variance)))
    return hlo.multiply(centred, b.broadcast(inverse, sizes(out))), middle, inverse


def _affine(b: Builder, out: Out, weight: Value | None, bias: Value | None, dims: Sequence[int] | None = None) -> Out:
    """A value scaled and shifted by what runs along `dims`, by default the last ones."""
    for part, function in ((weight, hlo.multiply), (bias, hlo.add)):
        if part is not None:
            out = function(out, b.broadcast(b.convert(part.out, out.type.element_type), sizes(out), dims))
    return out


def _layer_norm(
    b: Builder, input: Value, count: int, weight: Value | None, bias: Value | None, eps: float
) -> list[Out]:
    axes = list(range(input.rank - count, input.rank))
    normal, *statistics = _standardized(b, wide(b, input.out), axes, eps)
    return [b.cast(_affine(b, normal, weight, bias), input.dtype), *statistics]


@register(aten.layer_norm.default)
def layer_norm(
    b: Builder, input: Value, normalized_shape: list[int], weight: Value | None, bias: Value | None, eps: float,
    **_: Any,
) -> Any:  # fmt: skip
    """Layer norm over the last dimensions."""
    return _layer_norm(b, input, len(normalized_shape), weight, bias, eps)[0]


@register(aten.native_layer_norm.default)
def native_layer_norm(
    b: Builder, input: Value, normalized_shape: list[int], weight: Value | None, bias: Value | None, eps: float
) -> list[Any]:
    """Layer norm, with mean and inverse deviation."""
    return _layer_norm(b, input, len(normalized_shape), weight, bias, eps)


@register(aten.rms_norm.default)
def rms_norm(b: Builder, input: Value, normalized_shape: list[int], weight: Value | None, eps: float | None) -> Any:
    """Norm by the root of the mean square."""
    epsilon = torch.finfo(input.dtype).eps if eps is None else eps
    scale = b.const(1, input.dtype, normalized_shape) if weight is None else b.cast(weight, input.dtype)
    if len(normalized_shape) == 1:
        operands = [input.out, scale, b.const(epsilon, torch.float32)]
        return fused(b, "AwsNeuronRmsNorm", operands, str(input.rank - 1))
    data = wide(b, input.out)
    axes = list(range(input.rank - len(normalized_shape), input.rank))
    square = mean(b, hlo.multiply(data, data), axes, True)
    inverse = hlo.rsqrt(hlo.add(square, b.like(epsilon, square)))
    normal = b.cast(hlo.multiply(data, b.broadcast(inverse, input.shape)), input.dtype)
    return hlo.multiply(normal, b.broadcast(scale, input.shape))


@register(aten.batch_norm.default)
def batch_norm(
    b: Builder, input: Value, weight: Value | None, bias: Value | None, running_mean: Value, running_var: Value,
    training: bool, momentum: float, eps: float, **_: Any,
) -> Any:  # fmt: skip
    """Batch norm by recorded statistics."""
    data, shape = wide(b, input.out), input.shape
    variance = b.convert(running_var.out, data.type.element_type)
    inverse = hlo.rsqrt(hlo.add(variance, b.like(eps, variance)))
    middle = b.convert(running_mean.out, data.type.element_type)
    centred = hlo.subtract(data, b.broadcast(middle, shape, [1]))
    normal = hlo.multiply(centred, b.broadcast(inverse, shape, [1]))
    return b.cast(_affine(b, normal, weight, bias, [1]), input.dtype)


@register(aten._native_batch_norm_legit_no_training.default)
def inference_batch_norm(
    b: Builder, input: Value, weight: Value | None, bias: Value | None, running_mean: Value, running_var: Value,
    momentum: float, eps: float,
) -> list[Any]:  # fmt: skip
    """Batch norm by recorded statistics, which are returned too."""
    out = batch_norm(b, input, weight, bias, running_mean, running_var, False, momentum, eps)
    return [out, running_mean.out, running_var.out]


@register(aten.group_norm.default)
def group_norm(
    b: Builder, input: Value, num_groups: int, weight: Value | None, bias: Value | None, eps: float, **_: Any
) -> Any:
    """Norm of groups of channels."""
    rows = input.shape[0]
    grouped = b.reshape(wide(b, input.out), [rows, num_groups, input.fake.numel() // (rows * num_groups)])
    normal = b.reshape(_standardized(b, grouped, [2], eps)[0], input.shape)
    return b.cast(_affine(b, normal, weight, bias, [1]), input.dtype)


@register(aten.instance_norm.default)
def instance_norm(
    b: Builder, input: Value, weight: Value | None, bias: Value | None, running_mean: Any, running_var: Any,
    use_input_stats: bool, momentum: float, eps: float, **_: Any,
) -> Any:  # fmt: skip
    """Norm of each channel of each row."""
    normal = _standardized(b, wide(b, input.out), list(range(2, input.rank)), eps)[0]
    return b.cast(_affine(b, normal, weight, bias, [1]), input.dtype)
