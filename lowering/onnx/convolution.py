"""Convolutions."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from graphwright.ir.node import argument, shape_of
from graphwright.lowering.onnx.table import Emission, register
from graphwright.lowering.support import Support

aten = torch.ops.aten

_FORWARD = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
_NAMED = (aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding)


def _batched(node: Node) -> Support:
    rank, kernel = (len(shape_of(argument(node, name)) or ()) for name in ("input", "weight"))
    return Support.yes() if rank == kernel else Support.no("convolution without a batch dimension")


def _full(values: Any, count: int) -> list[int]:
    """One number per spatial dimension."""
    numbers = [values] if isinstance(values, int) else list(values)
    return numbers * count if len(numbers) == 1 else numbers


@register(*_FORWARD, *_NAMED, validate=_batched)
def conv(
    b: Emission, input: ir.Value, weight: ir.Value, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> ir.Value:
    """Convolution; padding by numbers, or `same` and `valid`."""
    kernel = b.shape(weight)[2:]
    count = len(kernel)
    dilations = _full(dilation, count)
    if padding == "same":
        total = [step * (size - 1) for step, size in zip(dilations, kernel, strict=True)]
        pads = [size // 2 for size in total] + [size - size // 2 for size in total]
    else:
        pads = 2 * ([0] * count if padding == "valid" else _full(padding, count))
    options: dict[str, Any] = {"strides": _full(stride, count), "pads": pads, "dilations": dilations, "group": groups}
    return b.op("Conv", input, weight, bias, **options)


@register(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input, validate=_batched)
def conv_transpose(
    b: Emission,
    input: ir.Value,
    weight: ir.Value,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> ir.Value:
    """Transposed convolution."""
    count = b.rank(weight) - 2
    return b.op(
        "ConvTranspose",
        input,
        weight,
        bias,
        strides=_full(stride, count),
        pads=2 * _full(padding, count),
        output_padding=_full(output_padding, count),
        dilations=_full(dilation, count),
        group=groups,
    )


@register(aten.convolution.default, validate=_batched)
def convolution(
    b: Emission,
    input: ir.Value,
    weight: ir.Value,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> ir.Value:
    """The general form of the others."""
    if transposed:
        return conv_transpose(b, input, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv(b, input, weight, bias, stride, padding, dilation, groups)
