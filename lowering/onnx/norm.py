"""Normalisation layers."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from graphwright.ir.node import bound
from graphwright.lowering.onnx.sizes import Size
from graphwright.lowering.onnx.table import Emission, register
from graphwright.lowering.support import Support

aten = torch.ops.aten


def _ones(b: Emission, sizes: Any, dtype: torch.dtype) -> ir.Value:
    return b.op("Expand", b.const(1, dtype), b.sizes.vector(sizes))


@register(aten.layer_norm.default)
def layer_norm(
    b: Emission, input: ir.Value, normalized_shape: list[Size], weight: Any, bias: Any, eps: float, cudnn_enable: bool
) -> ir.Value:
    """Layer normalisation over the last dimensions."""
    scale = _ones(b, normalized_shape, b.fake(input).dtype) if weight is None else weight
    return b.op("LayerNormalization", input, scale, bias, axis=-len(normalized_shape), epsilon=float(eps))


@register(aten.native_layer_norm.default)
def native_layer_norm(
    b: Emission, input: ir.Value, normalized_shape: list[Size], weight: Any, bias: Any, eps: float
) -> list[ir.Value]:
    """Layer normalisation with mean and reciprocal deviation, in float32."""
    scale = _ones(b, normalized_shape, b.fake(input).dtype) if weight is None else weight
    dtypes = [b.fake(input).dtype, torch.float32, torch.float32]
    attributes = {"axis": -len(normalized_shape), "epsilon": float(eps)}
    return list(b.ops("LayerNormalization", input, scale, bias, dtypes=dtypes, **attributes))


@register(aten.rms_norm.default)
def rms_norm(b: Emission, input: ir.Value, normalized_shape: list[Size], weight: Any, eps: float | None) -> ir.Value:
    """Root-mean-square normalisation; its own operator from opset 23."""
    dtype = b.result.dtype
    small = torch.finfo(dtype).eps if eps is None else float(eps)
    axes = list(range(-len(normalized_shape), 0))
    if b.opset >= 23:
        scale = _ones(b, normalized_shape, b.fake(input).dtype) if weight is None else weight
        return b.op("RMSNormalization", input, scale, axis=axes[0], epsilon=small)
    square = b.op("ReduceMean", b.op("Mul", input, input), b.axes(axes), keepdims=1)
    deviation = b.op("Sqrt", b.op("Add", square, b.const(small, dtype)))
    normal = b.op("Div", input, deviation)
    return normal if weight is None else b.op("Mul", normal, weight)


@register(aten.group_norm.default)
def group_norm(
    b: Emission, input: ir.Value, num_groups: int, weight: Any, bias: Any, eps: float, cudnn_enabled: bool
) -> ir.Value:
    """Group normalisation: instance normalisation of the groups, then scale and shift per channel."""
    channels = b.shape(input)[1]
    groups = b.op("Reshape", input, b.const([0, num_groups, -1]))
    ones, zeros = b.const([1.0] * num_groups, b.fake(input).dtype), b.const([0.0] * num_groups, b.fake(input).dtype)
    normal = b.op("InstanceNormalization", groups, ones, zeros, epsilon=float(eps))
    result = b.op("Reshape", normal, b.op("Shape", input, dtype=torch.int64))
    per_channel = b.const([channels, *[1] * (b.rank(input) - 2)])
    for kind, parameter in (("Mul", weight), ("Add", bias)):
        if parameter is not None:
            result = b.op(kind, result, b.op("Reshape", parameter, per_channel))
    return result


def _inference(node: Node) -> Support:
    arguments = bound(node)
    if arguments.get("training"):
        return Support.no("batch statistics in training mode", remedy="capture the model after model.eval()")
    return Support.yes()


@register(aten.batch_norm.default, validate=_inference)
def batch_norm(
    b: Emission, input: ir.Value, weight: Any, bias: Any, running_mean: Any, running_var: Any, eps: float, **_: Any
) -> ir.Value:
    """Batch normalisation by the running statistics."""
    scale = _ones(b, b.shape(running_mean), b.fake(input).dtype) if weight is None else weight
    shift = b.op("Sub", running_mean, running_mean) if bias is None else bias
    return b.op("BatchNormalization", input, scale, shift, running_mean, running_var, epsilon=float(eps))
