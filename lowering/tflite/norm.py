"""Normalizations."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.lowering.tflite.builder import Builder
from graphwright.lowering.tflite.graph import Value
from graphwright.lowering.tflite.table import register

aten = torch.ops.aten


def _affine(b: Builder, value: Value, weight: Value | None, bias: Value | None) -> Value:
    value = value if weight is None else b.binary("MUL", value, weight)
    return value if bias is None else b.binary("ADD", value, bias)


def _standardized(b: Builder, value: Value, dims: list[int], eps: float) -> tuple[Value, Value, Value]:
    """A value less its mean, by its deviation; and mean and inverse deviation."""
    mean = b.reduce("MEAN", value, dims, True)
    centred = b.binary("SUB", value, mean)
    variance = b.reduce("MEAN", b.binary("MUL", centred, centred), dims, True)
    inverse = b.unary("RSQRT", b.binary("ADD", variance, b.const(eps, value.dtype)))
    return b.binary("MUL", centred, inverse), mean, inverse


def _last(value: Value, sizes: list[Any]) -> list[int]:
    return list(range(value.rank - len(sizes), value.rank))


@register(aten.layer_norm.default)
def layer_norm(
    b: Builder, input: Value, normalized_shape: list[Any], weight: Value | None, bias: Value | None, eps: float,
    **_: Any,
) -> Value:  # fmt: skip
    """Layer norm over the last dimensions."""
    return _affine(b, _standardized(b, input, _last(input, normalized_shape), eps)[0], weight, bias)


@register(aten.native_layer_norm.default)
def native_layer_norm(
    b: Builder, input: Value, normalized_shape: list[Any], weight: Value | None, bias: Value | None, eps: float
) -> list[Value]:
    """Layer norm, with mean and inverse deviation."""
    standard, mean, inverse = _standardized(b, input, _last(input, normalized_shape), eps)
    return [_affine(b, standard, weight, bias), mean, inverse]


@register(aten.rms_norm.default)
def rms_norm(b: Builder, input: Value, normalized_shape: list[Any], weight: Value | None, eps: float | None) -> Value:
    """Norm by the root of the mean square."""
    epsilon = torch.finfo(getattr(torch, input.dtype)).eps if eps is None else eps
    dims = _last(input, normalized_shape)
    if not b.composites or len(dims) > 1:
        return _affine(b, _by_root_mean_square(b, input, dims, epsilon), weight, None)
    factor = weight or b.const([1.0] * input.shape[-1], input.dtype)
    return b.composite(
        "odml.rms_norm", [input, factor], {"epsilon": float(epsilon)},
        lambda inner, values: _affine(inner, _by_root_mean_square(inner, values[0], dims, epsilon), values[1], None),
    )  # fmt: skip


def _by_root_mean_square(b: Builder, value: Value, dims: list[int], eps: float) -> Value:
    mean = b.reduce("MEAN", b.binary("MUL", value, value), dims, True)
    return b.binary("MUL", value, b.unary("RSQRT", b.binary("ADD", mean, b.const(eps, value.dtype))))


@register(aten.batch_norm.default)
def batch_norm(
    b: Builder, input: Value, weight: Value | None, bias: Value | None, running_mean: Value, running_var: Value,
    training: bool, momentum: float, eps: float, **_: Any,
) -> Value:  # fmt: skip
    """Batch norm by recorded statistics: one product and one sum, per channel."""
    parts = [running_mean, running_var, *(part for part in (weight, bias) if part is not None)]
    assert all(part.data is not None for part in parts), "statistics that are computed"
    mean, variance = (part.data.astype("float64") for part in (running_mean, running_var))  # type: ignore[union-attr]
    scale = (variance + eps) ** -0.5 * (1.0 if weight is None else weight.data)  # type: ignore[operator]
    shift = (0.0 if bias is None else bias.data) - mean * scale  # type: ignore[operator]
    channels = [mean.size, *[1] * (input.rank - 2)]
    factor, offset = (b.const(part.reshape(channels), input.dtype) for part in (scale, shift))
    if input.rank == 4:
        return _channels_last(b, input, factor, offset)
    return b.binary("ADD", b.binary("MUL", input, factor), offset)


def _channels_last(b: Builder, value: Value, factor: Value, offset: Value) -> Value:
    """Scale and shift with the channels last, where convolutions leave them."""
    last = b.transpose(value, (0, 2, 3, 1))
    scaled = b.binary("MUL", last, b.reshape(factor, [factor.size]))
    return b.transpose(b.binary("ADD", scaled, b.reshape(offset, [offset.size])), (0, 3, 1, 2))


@register(aten.group_norm.default)
def group_norm(
    b: Builder, input: Value, num_groups: int, weight: Value | None, bias: Value | None, eps: float, **_: Any
) -> Value:
    """Norm of groups of channels."""
    batch, channels, *rest = input.shape
    grouped = b.reshape(input, [batch, num_groups, input.size // batch // num_groups])
    standard = b.reshape(_standardized(b, grouped, [2], eps)[0], input.shape)
    sizes = [channels, *[1] * len(rest)]
    parts = [None if part is None else b.reshape(part, sizes) for part in (weight, bias)]
    return _affine(b, standard, *parts)
