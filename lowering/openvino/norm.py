"""Normalizations, in the form that OpenVINO's plugins recognise and fuse."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.lowering.openvino.builder import Builder, Size, Value, op
from graphwright.lowering.openvino.table import register

aten = torch.ops.aten


def _standardized(b: Builder, self: Value, sizes: list[Size], eps: float) -> Any:
    axes = b.const(list(range(-len(sizes), 0)), torch.int32)
    return op.mvn(self.out, axes, True, eps, "inside_sqrt").output(0)


def _affine(b: Builder, out: Any, weight: Value | None, bias: Value | None) -> Any:
    out = out if weight is None or b.only(weight, 1) else op.multiply(out, weight.out).output(0)
    return out if bias is None or b.only(bias, 0) else op.add(out, bias.out).output(0)


@register(aten.layer_norm.default)
def layer_norm(
    b: Builder,
    input: Value,
    normalized_shape: list[Size],
    weight: Value | None,
    bias: Value | None,
    eps: float,
    **_: Any,
) -> Any:
    """Layer norm over the last dimensions."""
    return _affine(b, _standardized(b, input, normalized_shape, eps), weight, bias)


@register(aten.native_layer_norm.default)
def native_layer_norm(
    b: Builder, input: Value, normalized_shape: list[Size], weight: Value | None, bias: Value | None, eps: float
) -> list[Any]:
    """Layer norm, with mean and inverse deviation."""
    axes = b.const(list(range(input.rank - len(normalized_shape), input.rank)))
    mean = op.reduce_mean(input.out, axes, True)
    centred = op.subtract(input.out, mean)
    variance = op.reduce_mean(op.multiply(centred, centred), axes, True)
    inverse = op.power(op.add(variance, b.const(eps, input.dtype)), b.const(-0.5, input.dtype))
    return [_affine(b, _standardized(b, input, normalized_shape, eps), weight, bias), mean, inverse]


@register(aten.rms_norm.default)
def rms_norm(b: Builder, input: Value, normalized_shape: list[Size], weight: Value | None, eps: float | None) -> Any:
    """Norm by the root of the mean square."""
    axes = b.const(list(range(input.rank - len(normalized_shape), input.rank)))
    epsilon = torch.finfo(input.dtype).eps if eps is None else eps
    squares = op.power(input.out, b.const(2, input.dtype))
    mean = op.add(op.reduce_mean(squares, axes, True), b.const(epsilon, input.dtype))
    scaled = op.multiply(input.out, op.divide(b.const(1, input.dtype), op.sqrt(mean)))
    return _affine(b, scaled.output(0), weight, None)


@register(aten.batch_norm.default)
def batch_norm(
    b: Builder, input: Value, weight: Value | None, bias: Value | None, running_mean: Value, running_var: Value,
    training: bool, momentum: float, eps: float, **_: Any,
) -> Any:  # fmt: skip
    """Batch norm by recorded statistics."""
    channels = running_mean.shape[0]
    scale = weight.out if weight is not None else op.broadcast(b.const(1.0, input.dtype), b.vector([channels]))
    shift = bias.out if bias is not None else op.broadcast(b.const(0.0, input.dtype), b.vector([channels]))
    return op.batch_norm_inference(input.out, scale, shift, running_mean.out, running_var.out, eps)


@register(aten.group_norm.default)
def group_norm(
    b: Builder, input: Value, num_groups: int, weight: Value | None, bias: Value | None, eps: float, **_: Any
) -> Any:
    """Norm of groups of channels."""
    channels = input.shape[1]
    scale = weight.out if weight is not None else op.broadcast(b.const(1.0, input.dtype), b.vector([channels]))
    shift = bias.out if bias is not None else op.broadcast(b.const(0.0, input.dtype), b.vector([channels]))
    return op.group_normalization(input.out, scale, shift, num_groups, eps)
