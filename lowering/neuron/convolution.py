"""Convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from graphwright.lowering.common import full, padding_pairs, same_padding
from graphwright.lowering.neuron.builder import Builder, Out, Value, element, longs, sizes
from graphwright.lowering.neuron.matmul import rounded
from graphwright.lowering.neuron.table import register
from graphwright.lowering.neuron.xla import elements, hlo

aten = torch.ops.aten


def _convolved(
    b: Builder, data: Out, kernel: Out, padding: list[tuple[int, int]], stride: list[int], spread: list[int],
    inner: list[int], groups: int,
) -> Out:  # fmt: skip
    """Convolution of [N, C, ...] with [O, C / groups, ...].

    Args:
        b: The builder.
        data: The input.
        kernel: The weight.
        padding: Zeros in front and at the end of each dimension.
        stride: Steps of the window.
        spread: Dilation of the window.
        inner: Dilation of the input.
        groups: Number of groups.
    """
    dims, kind = len(stride), element(data)
    space = list(range(2, dims + 2))
    numbers = hlo.ConvDimensionNumbers.get(
        input_batch_dimension=0, input_feature_dimension=1, input_spatial_dimensions=space,
        kernel_input_feature_dimension=1, kernel_output_feature_dimension=0, kernel_spatial_dimensions=space,
        output_batch_dimension=0, output_feature_dimension=1, output_spatial_dimensions=space,
    )  # fmt: skip
    lengths = []
    for i in range(dims):
        size = (sizes(data)[i + 2] - 1) * inner[i] + 1 + sum(padding[i])
        lengths.append((size - ((sizes(kernel)[i + 2] - 1) * spread[i] + 1)) // stride[i] + 1)
    shape = [sizes(data)[0], sizes(kernel)[0], *lengths]
    left, right = rounded(b, data), rounded(b, kernel)
    return hlo.convolution(
        b.type(shape, kind), left, b.convert(right, element(left)), dimension_numbers=numbers,
        feature_group_count=groups, batch_group_count=1, window_strides=longs(stride),
        padding=elements(np.array(padding, np.int64)), lhs_dilation=longs(inner),
        rhs_dilation=longs(spread),
    )  # fmt: skip


def _finished(b: Builder, out: Out, bias: Value | None, unbatched: bool) -> Out:
    if bias is not None:
        out = hlo.add(out, b.broadcast(b.convert(bias.out, element(out)), sizes(out), [1]))
    return b.reshape(out, sizes(out)[1:]) if unbatched else out


@register(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
@register(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding, validate=same_padding)
def convolution(
    b: Builder, input: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    """Convolution of 1 to 3 dimensions."""
    dims = weight.rank - 2
    spread = full(dilation, dims)
    pads = padding_pairs(padding, weight.shape[2:], spread)
    unbatched = input.rank < weight.rank
    data = b.unsqueeze(input.out, 0) if unbatched else input.out
    out = _convolved(b, data, weight.out, pads, full(stride, dims), spread, [1] * dims, groups)
    return _finished(b, out, bias, unbatched)


@register(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
def transposed_convolution(
    b: Builder, input: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, output_padding: Any,
    groups: int, dilation: Any,
) -> Any:  # fmt: skip
    """Transposed convolution of 1 to 3 dimensions: the input is dilated, the kernel turned round."""
    dims = weight.rank - 2
    spread, pads, extra = full(dilation, dims), full(padding, dims), full(output_padding, dims)
    reach = [d * (k - 1) for k, d in zip(weight.shape[2:], spread, strict=True)]
    padding = [(r - p, r - p + e) for r, p, e in zip(reach, pads, extra, strict=True)]
    rows, columns, *window = weight.shape
    kernel = b.reshape(weight.out, [groups, rows // groups, columns, *window])
    kernel = b.transpose(kernel, [0, 2, 1, *range(3, dims + 3)])
    kernel = b.reshape(kernel, [groups * columns, rows // groups, *window])
    kernel = hlo.reverse(kernel, longs(range(2, dims + 2)))
    if any(d > 1 for d in spread):  # the compiler dilates the input or the kernel, not both
        none = [0] * (dims + 2)
        kernel = b.pad(kernel, none, none, 0, [0, 0, *(d - 1 for d in spread)])
    unbatched = input.rank < weight.rank
    data = b.unsqueeze(input.out, 0) if unbatched else input.out
    out = _convolved(b, data, kernel, padding, [1] * dims, [1] * dims, full(stride, dims), groups)
    return _finished(b, out, bias, unbatched)


@register(aten.convolution.default)
def core_convolution(
    b: Builder, input: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int,
) -> Any:  # fmt: skip
    """Either kind of convolution."""
    if transposed:
        return transposed_convolution(b, input, weight, bias, stride, padding, output_padding, groups, dilation)
    return convolution(b, input, weight, bias, stride, padding, dilation, groups)
