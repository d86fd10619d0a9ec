"""Pooling and resizing of images and sequences."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from graphwright.ir.node import argument, shape_of, value_of
from graphwright.lowering.onnx.convolution import _full
from graphwright.lowering.onnx.table import Emission, register
from graphwright.lowering.support import Support

aten = torch.ops.aten


@register(aten.max_pool1d.default, aten.max_pool2d.default)
def max_pool(
    b: Emission, self: ir.Value, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> ir.Value:
    """Largest element of each window."""
    count = b.rank(self) - 2
    return b.op(
        "MaxPool",
        self,
        kernel_shape=_full(kernel_size, count),
        strides=_full(stride or kernel_size, count),
        pads=2 * _full(padding, count),
        dilations=_full(dilation, count),
        ceil_mode=int(ceil_mode),
    )


def _plain_average(node: Node) -> Support:
    plain = argument(node, "divisor_override") is None if "divisor_override" in str(node.target._schema) else True  # type: ignore[union-attr]
    return Support.yes() if plain else Support.no("average pooling with divisor_override")


@register(aten.avg_pool1d.default, aten.avg_pool2d.default, validate=_plain_average)
def avg_pool(
    b: Emission,
    self: ir.Value,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: None = None,
) -> ir.Value:
    """Mean of each window."""
    count = b.rank(self) - 2
    return b.op(
        "AveragePool",
        self,
        kernel_shape=_full(kernel_size, count),
        strides=_full(stride or kernel_size, count),
        pads=2 * _full(padding, count),
        ceil_mode=int(ceil_mode),
        count_include_pad=int(count_include_pad),
    )


def _divides(node: Node) -> Support:
    sizes, wanted = (shape_of(argument(node, "self")) or ()), argument(node, "output_size")
    pairs = list(zip(sizes[-len(wanted) :], wanted, strict=True))
    if all(want == 1 or (isinstance(have, int) and have % want == 0) for have, want in pairs):
        return Support.yes()
    return Support.no("adaptive pooling to a size that does not divide the input", remedy="fix the input size")


@register(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, validate=_divides)
def adaptive_avg_pool(b: Emission, self: ir.Value, output_size: list[int]) -> ir.Value:
    """Mean of equal windows, or of everything."""
    if all(size == 1 for size in output_size):
        return b.op("GlobalAveragePool", self)
    sizes = b.shape(self)[-len(output_size) :]
    windows = [have // want for have, want in zip(sizes, output_size, strict=True)]
    return b.op("AveragePool", self, kernel_shape=windows, strides=windows)


def _resize(b: Emission, image: ir.Value, factors: Any, **attributes: Any) -> ir.Value:
    if factors:
        scales = b.const([1.0, 1.0, *map(float, factors)], torch.float32)
        return b.op("Resize", image, None, scales, **attributes)
    return b.op("Resize", image, None, None, b.sizes.vector(b.result.shape), **attributes)


def _one_factor(node: Node) -> Support:
    return Support.yes() if isinstance(value_of(node), torch.Tensor) else Support.no("resizing of several tensors")


@register(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, validate=_one_factor)
def nearest(b: Emission, input: ir.Value, output_size: Any, scale_factors: Any) -> ir.Value:
    """Each output element is the input element at or before it."""
    mode = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return _resize(b, input, scale_factors, **mode)


def _interpolate(mode: str, *targets: Any) -> None:
    def emit(b: Emission, input: ir.Value, output_size: Any, align_corners: bool, scale_factors: Any) -> ir.Value:
        coordinates = "align_corners" if align_corners else "pytorch_half_pixel"
        coefficient = -0.75 if mode == "cubic" else None
        options = {"mode": mode, "coordinate_transformation_mode": coordinates, "cubic_coeff_a": coefficient}
        return _resize(b, input, scale_factors, **options)

    register(*targets)(emit)


_interpolate("linear", aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec)
_interpolate("cubic", aten.upsample_bicubic2d.vec)
