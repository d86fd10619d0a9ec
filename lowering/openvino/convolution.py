"""Convolutions, pooling and resampling."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.node import bound
from graphwright.lowering.common import full, padding_pairs, same_padding
from graphwright.lowering.openvino.builder import Builder, Size, Value, op, same
from graphwright.lowering.openvino.table import register
from graphwright.lowering.support import Support

aten = torch.ops.aten


def _biased(b: Builder, out: Any, bias: Value | None, dims: int) -> Any:
    if bias is None or b.only(bias, 0):
        return out
    return op.add(out, b.reshape(bias.out, None, [1, bias.shape[0], *[1] * dims]))


@register(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
@register(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding, validate=same_padding)
def convolution(
    b: Builder, input: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    """Convolution of 1 to 3 dimensions."""
    dims = weight.rank - 2
    strides, dilations = full(stride, dims), full(dilation, dims)
    pads = padding_pairs(padding, weight.shape[2:], dilations)
    begins, ends = [front for front, _ in pads], [end for _, end in pads]
    data = input.out if input.rank == weight.rank else b.unsqueeze(input.out, 0)
    if groups == 1:
        out = op.convolution(data, weight.out, strides, begins, ends, dilations).output(0)
    else:
        grouped = b.reshape(weight.out, None, [groups, weight.shape[0] // groups, *weight.shape[1:]])
        out = op.group_convolution(data, grouped, strides, begins, ends, dilations).output(0)
    out = _biased(b, out, bias, dims)
    return out if input.rank == weight.rank else op.squeeze(out, b.const([0]))


@register(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
def transposed_convolution(
    b: Builder, input: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, output_padding: Any,
    groups: int, dilation: Any,
) -> Any:  # fmt: skip
    """Transposed convolution of 1 to 3 dimensions."""
    dims = weight.rank - 2
    pads = full(padding, dims)
    options: dict[str, Any] = {
        "strides": full(stride, dims), "pads_begin": pads, "pads_end": pads, "dilations": full(dilation, dims),
        "output_padding": full(output_padding, dims),
    }  # fmt: skip
    if groups == 1:
        out = op.convolution_backprop_data(input.out, weight.out, **options)
    else:
        shape = [groups, weight.shape[0] // groups, *weight.shape[1:]]
        out = op.group_convolution_backprop_data(input.out, b.reshape(weight.out, None, shape), **options)
    return _biased(b, out.output(0), bias, dims)


@register(aten.convolution.default)
def core_convolution(
    b: Builder, input: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int,
) -> Any:  # fmt: skip
    """Either kind of convolution."""
    if transposed:
        return transposed_convolution(b, input, weight, bias, stride, padding, output_padding, groups, dilation)
    return convolution(b, input, weight, bias, stride, padding, dilation, groups)


# ---- pooling ---------------------------------------------------------------------------------


def _batched(b: Builder, self: Value, dims: int) -> Any:
    return self.out if self.rank == dims + 2 else b.unsqueeze(self.out, 0)


def _unbatched(b: Builder, out: Any, self: Value, dims: int) -> Any:
    return out if self.rank == dims + 2 else op.squeeze(out, b.const([0]))


@register(aten.max_pool1d.default, aten.max_pool2d.default)
def max_pool(
    b: Builder, self: Value, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Any:
    """Largest value of each window."""
    dims = len(kernel_size) if isinstance(kernel_size, (list, tuple)) else 1
    kernel, pads = full(kernel_size, dims), full(padding, dims)
    strides = full(stride, dims) if stride else kernel
    rounding = "ceil_torch" if ceil_mode else "floor"
    data = _batched(b, self, dims)
    pooled = op.max_pool(data, strides, full(dilation, dims), pads, pads, kernel, rounding).output(0)
    return _unbatched(b, pooled, self, dims)


def _plain_average(node: Node) -> Support:
    if bound(node).get("divisor_override") is None:
        return Support.yes()
    return Support.no("an average divided by another number")


@register(aten.avg_pool1d.default, aten.avg_pool2d.default, validate=_plain_average)
def average_pool(
    b: Builder, self: Value, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool,
    **_: Any,
) -> Any:  # fmt: skip
    """Mean of each window."""
    dims = len(kernel_size)
    pads, strides = full(padding, dims), list(stride) or list(kernel_size)
    rounding = "ceil_torch" if ceil_mode else "floor"
    data = _batched(b, self, dims)
    pooled = op.avg_pool(data, strides, pads, pads, list(kernel_size), not count_include_pad, rounding).output(0)
    return _unbatched(b, pooled, self, dims)


@register(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default)
def adaptive_average(b: Builder, self: Value, output_size: list[Size]) -> Any:
    """Means of as many windows as wanted."""
    dims = len(output_size)
    if all(same(size, 1) for size in output_size):
        return op.reduce_mean(self.out, b.const(list(range(self.rank - dims, self.rank))), True)
    pooled = op.adaptive_avg_pool(_batched(b, self, dims), b.vector(output_size)).output(0)
    return _unbatched(b, pooled, self, dims)


# ---- resampling ------------------------------------------------------------------------------


def _resampled(b: Builder, self: Value, mode: str, coordinates: str, scales: Any, **options: Any) -> Any:
    dims = self.rank - 2
    options |= {"coordinate_transformation_mode": coordinates, "axes": b.const(list(range(2, self.rank)))}
    if scales:
        factors = b.const([float(scale) for scale in scales], torch.float32)
        return op.interpolate(self.out, factors, mode, "scales", **options)
    return op.interpolate(self.out, b.vector(b.result.shape[-dims:]), mode, "sizes", **options)


@register(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec)
def nearest(b: Builder, input: Value, output_size: Any, scale_factors: Any) -> Any:
    """Resampling by the nearest pixel."""
    return _resampled(b, input, "nearest", "asymmetric", scale_factors, nearest_mode="floor")


@register(aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec)
def linear(b: Builder, input: Value, output_size: Any, align_corners: bool, scale_factors: Any) -> Any:
    """Resampling by linear interpolation."""
    coordinates = "align_corners" if align_corners else "half_pixel"
    return _resampled(b, input, "linear_onnx" if input.rank == 4 else "linear", coordinates, None)


@register(aten.upsample_bicubic2d.vec)
def cubic(b: Builder, input: Value, output_size: Any, align_corners: bool, scale_factors: Any) -> Any:
    """Resampling by cubic interpolation."""
    coordinates = "align_corners" if align_corners else "half_pixel"
    return _resampled(b, input, "cubic", coordinates, None, cube_coeff=-0.75)
