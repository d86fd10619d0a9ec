"""ONNX normalizations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from graphwright.frontends.onnx.table import Call, register
from graphwright.frontends.onnx.values import tensor


def optional(value: Any) -> Any:
    """A tensor, or None."""
    return None if value is None else tensor(value)


@register("LayerNormalization")
@register("LayerNormalization", domain="com.microsoft")
def layer_norm(call: Call, x: Any, scale: Any, bias: Any = None) -> Any:
    """Layer norm over the axes from `axis` on; mean and inverse deviation too, where they are used."""
    x, weight, axis = tensor(x), tensor(scale), call.attr("axis", -1)
    sizes, eps = x.shape[axis % x.dim() :], call.attr("epsilon", 1e-5)
    weight = weight if tuple(weight.shape) == tuple(sizes) else weight.expand(sizes)
    if call.outputs == 1:
        return F.layer_norm(x, sizes, weight, optional(bias), eps)
    return torch.native_layer_norm(x, sizes, weight, optional(bias), eps)


@register("RMSNormalization")
@register("SimplifiedLayerNormalization")
@register("SimplifiedLayerNormalization", domain="com.microsoft")
def rms_norm(call: Call, x: Any, scale: Any) -> torch.Tensor:
    """Norm by the root of the mean square over the axes from `axis` on."""
    x = tensor(x)
    return F.rms_norm(x, x.shape[call.attr("axis", -1) % x.dim() :], tensor(scale), call.attr("epsilon", 1e-5))


@register("BatchNormalization")
def batch_norm(call: Call, x: Any, scale: Any, bias: Any, mean: Any, var: Any) -> torch.Tensor:
    """Batch norm by recorded statistics."""
    if call.attr("training_mode", 0):
        raise call.unsupported("training mode")
    eps = call.attr("epsilon", 1e-5)
    return F.batch_norm(tensor(x), tensor(mean), tensor(var), tensor(scale), tensor(bias), eps=eps)


@register("InstanceNormalization")
def instance_norm(call: Call, x: Any, scale: Any, bias: Any) -> torch.Tensor:
    """Norm of each channel of each item."""
    return F.instance_norm(tensor(x), weight=tensor(scale), bias=tensor(bias), eps=call.attr("epsilon", 1e-5))


@register("GroupNormalization")
def group_norm(call: Call, x: Any, scale: Any, bias: Any) -> torch.Tensor:
    """Norm of groups of channels; before opset 21 scale and bias are one for each group."""
    x, groups, weight, shift = tensor(x), call.attr("num_groups"), tensor(scale), tensor(bias)
    if call.opset < 21:
        weight, shift = (part.repeat_interleave(x.shape[1] // groups) for part in (weight, shift))
    return F.group_norm(x, groups, weight, shift, eps=call.attr("epsilon", 1e-5))


@register("LpNormalization")
def lp_norm(call: Call, x: Any) -> torch.Tensor:
    """Values by their norm along an axis."""
    x, axis = tensor(x), call.attr("axis", -1)
    norm = torch.linalg.vector_norm(x, call.attr("p", 2), axis, True)
    return torch.where(norm == 0, x, x / norm)


@register("MeanVarianceNormalization")
def mean_variance(call: Call, x: Any) -> torch.Tensor:
    """Values with mean 0 and variance 1 along axes."""
    x, axes = tensor(x), call.attr("axes", [0, 2, 3])
    centred = x - x.mean(axes, True)
    return centred / (centred.square().mean(axes, True) + 1e-9).sqrt()
