"""Convolutions. LiteRT has the channels last, torch first: transpositions around them meet and vanish in between."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.fx import Node

from graphwright.ir.node import bound
from graphwright.lowering.common import full, padding_pairs
from graphwright.lowering.support import Support
from graphwright.lowering.tflite.builder import TO_CHANNELS_FIRST, TO_CHANNELS_LAST, Builder
from graphwright.lowering.tflite.graph import Value
from graphwright.lowering.tflite.shapes import padded
from graphwright.lowering.tflite.table import register

aten = torch.ops.aten
SAME, VALID = 0, 1
"""The schema's numbers for padding."""


def _planar(node: Node) -> Support:
    dims = bound(node)["weight"].meta["val"].dim() - 2
    if dims > 2:
        return Support.no(f"a convolution of {dims} dimensions", remedy="LiteRT's kernels have 1 and 2 dimensions")
    return Support.yes()


@register(aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding, validate=_planar)
def convolution(
    b: Builder, input: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Value:
    """Convolution of 1 or 2 dimensions."""
    dims = weight.rank - 2
    kernel, steps, gaps = list(weight.shape[2:]), full(stride, dims), full(dilation, dims)
    pairs = padding_pairs(padding, kernel, gaps)
    if dims == 1:  # a plane of one row
        flat = _plane(b, input, weight.rank)
        wide = b.derived(weight, "plane", lambda data: data[:, :, None])
        made = _convolved(b, flat, wide, bias, [1, *steps], [(0, 0), *pairs], [1, *gaps], groups)
        return b.reshape(made, b.shape)
    flat = input if input.rank == 4 else b.reshape(input, [1, *input.shape])
    return b.reshape(_convolved(b, flat, weight, bias, steps, pairs, gaps, groups), b.shape)


def _plane(b: Builder, value: Value, rank: int) -> Value:
    batched = value.shape if value.rank == rank else (1, *value.shape)
    return b.reshape(value, [*batched[:-1], 1, batched[-1]])


def _convolved(
    b: Builder, input: Value, weight: Value, bias: Value | None, steps: list[int], pairs: list[tuple[int, int]],
    gaps: list[int], groups: int,
) -> Value:  # fmt: skip
    """Convolution of a plane, channels first before and after."""
    outputs, each, *kernel = weight.shape
    data = b.transpose(input, TO_CHANNELS_LAST)
    mode = _mode(data.shape[1:3], kernel, steps, pairs, gaps)
    if mode == VALID:
        data = padded(b, data, [(0, 0), *pairs, (0, 0)])
    sizes = [
        -(-(n if mode == SAME else n - g * (k - 1)) // s)
        for n, k, s, g in zip(data.shape[1:3], kernel, steps, gaps, strict=True)
    ]
    shape = [data.shape[0], *sizes, outputs]
    shift = bias or b.const(np.zeros(outputs), weight.dtype)
    options = {"padding": mode, "strideH": steps[0], "strideW": steps[1]}
    options |= {"dilationHFactor": gaps[0], "dilationWFactor": gaps[1]}
    if groups > 1 and each == 1:
        matrix = b.derived(weight, "depthwise", lambda w: np.ascontiguousarray(w.transpose(1, 2, 3, 0)))
        options["depthMultiplier"] = outputs // groups
        made = b.op("DEPTHWISE_CONV_2D", [data, matrix, shift], shape, data.dtype, **options)
    else:
        matrix = b.derived(weight, "channels_last", lambda w: np.ascontiguousarray(w.transpose(0, 2, 3, 1)))
        made = b.op("CONV_2D", [data, matrix, shift], shape, data.dtype, **options)
    return b.transpose(made, TO_CHANNELS_FIRST)


def _mode(
    sizes: Any, kernel: list[int], steps: list[int], pairs: list[tuple[int, int]], gaps: list[int]
) -> int:  # fmt: skip
    """SAME where LiteRT would add the same entries by itself."""
    for n, k, s, (before, after), g in zip(sizes, kernel, steps, pairs, gaps, strict=True):
        total = max((-(-n // s) - 1) * s + g * (k - 1) + 1 - n, 0)
        if (before, after) != (total // 2, total - total // 2):
            return VALID
    return SAME if any(before or after for before, after in pairs) else VALID


def _plain_transposed(node: Node) -> Support:
    arguments = bound(node)
    if arguments["groups"] != 1:
        return Support.no("LiteRT's TRANSPOSE_CONV has no groups")
    if any(n != 1 for n in full(arguments["dilation"], 1)):
        return Support.no("LiteRT's TRANSPOSE_CONV has no dilation")
    return _planar(node)


@register(aten.conv_transpose1d.default, aten.conv_transpose2d.input, validate=_plain_transposed)
def transposed_convolution(
    b: Builder, input: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, output_padding: Any,
    groups: int, dilation: Any,
) -> Value:  # fmt: skip
    """Transposed convolution of 1 or 2 dimensions: the full one, of which the padding is cut off."""
    dims = weight.rank - 2
    steps, cuts, extra = (full(given, dims) for given in (stride, padding, output_padding))
    if dims == 1:
        input, weight = _plane(b, input, 3), b.derived(weight, "plane", lambda data: data[:, :, None])
        steps, cuts, extra = [1, *steps], [0, *cuts], [0, *extra]
    data = b.transpose(input, TO_CHANNELS_LAST)
    kernel, outputs = weight.shape[2:], weight.shape[1]
    full = [(n - 1) * s + k for n, s, k in zip(data.shape[1:3], steps, kernel, strict=True)]
    shape = [data.shape[0], *full, outputs]
    matrix = b.derived(weight, "transposed", lambda w: np.ascontiguousarray(w.transpose(1, 2, 3, 0)))
    inputs = [b.const(shape), matrix, data, *([] if bias is None else [bias])]
    made = b.op(
        "TRANSPOSE_CONV", inputs, shape, data.dtype, 3 if bias else 1, padding=VALID, strideH=steps[0], strideW=steps[1]
    )
    pairs = [(-cut, more - cut) for cut, more in zip(cuts, extra, strict=True)]
    return b.reshape(b.transpose(padded(b, made, [(0, 0), *pairs, (0, 0)]), TO_CHANNELS_FIRST), b.shape)


def _core(node: Node) -> Support:
    return _plain_transposed(node) if bound(node)["transposed"] else _planar(node)


@register(aten.convolution.default, validate=_core)
def core_convolution(
    b: Builder, input: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int,
) -> Value:  # fmt: skip
    """Either kind of convolution."""
    if transposed:
        return transposed_convolution(b, input, weight, bias, stride, padding, output_padding, groups, dilation)
    return convolution(b, input, weight, bias, stride, padding, dilation, groups)
