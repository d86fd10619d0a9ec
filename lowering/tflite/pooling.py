"""Pooling and resampling."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.fx import Node
from torch.nn.functional import interpolate

from graphwright.ir.node import bound, shape_of
from graphwright.lowering.common import full
from graphwright.lowering.support import Support
from graphwright.lowering.tflite.builder import TO_CHANNELS_FIRST, TO_CHANNELS_LAST, Builder
from graphwright.lowering.tflite.convolution import VALID
from graphwright.lowering.tflite.graph import Value
from graphwright.lowering.tflite.matmul import multiplied
from graphwright.lowering.tflite.shapes import padded
from graphwright.lowering.tflite.table import register

aten = torch.ops.aten


def _plain_window(node: Node) -> Support:
    arguments = bound(node)
    if arguments.get("ceil_mode"):
        return Support.no("LiteRT's pooling has no ceil_mode")
    if any(n != 1 for n in full(arguments.get("dilation", 1), 1)):
        return Support.no("LiteRT's pooling has no dilation")
    if arguments.get("divisor_override") is not None:
        return Support.no("an average divided by another number")
    return Support.yes()


def _pooled(b: Builder, self: Value, kernel: list[int], stride: Any, padding: Any, code: str, filler: Any) -> Value:
    """Windows of a plane, channels first before and after; a line is a plane of one row."""
    dims = len(kernel)
    batched = self.shape if self.rank == dims + 2 else (1, *self.shape)
    plane = b.reshape(self, [*batched[:2], *[1] * (2 - dims), *batched[2:]])
    kernel, steps = [[1] * (2 - dims) + list(n) for n in (kernel, full(stride, dims) if stride else kernel)]
    around = [0] * (2 - dims) + full(padding, dims)
    data = padded(b, b.transpose(plane, TO_CHANNELS_LAST), [(0, 0), *((n, n) for n in around), (0, 0)], filler)
    sizes = [(n - k) // s + 1 for n, k, s in zip(data.shape[1:3], kernel, steps, strict=True)]
    options = {"padding": VALID, "strideH": steps[0], "strideW": steps[1]}
    options |= {"filterHeight": kernel[0], "filterWidth": kernel[1]}
    made = b.op(code, [data], [data.shape[0], *sizes, data.shape[3]], data.dtype, **options)
    return b.reshape(b.transpose(made, TO_CHANNELS_FIRST), b.shape)


@register(aten.max_pool1d.default, aten.max_pool2d.default, validate=_plain_window)
def max_pool(
    b: Builder, self: Value, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Value:
    """Largest value of each window."""
    kernel = full(kernel_size, 1 if b.node and "1d" in str(b.node.target) else 2)
    filler = 0 if _is_rectified(b, self) else float(np.finfo(self.dtype).min)
    return _pooled(b, self, kernel, stride, padding, "MAX_POOL_2D", filler)


def _is_rectified(b: Builder, value: Value) -> bool:
    """Whether nothing is below zero; zeros can be added by XNNPACK's own PAD, other numbers cannot."""
    producer = b.producers.get(value)
    while producer is not None and producer.code in ("TRANSPOSE", "RESHAPE"):
        producer = None if producer.inputs[0] is None else b.producers.get(producer.inputs[0])
    return producer is not None and producer.code in ("RELU", "RELU6")


def _plain_average(node: Node) -> Support:
    arguments = bound(node)
    if any(full(arguments["padding"], 1)) and not arguments["count_include_pad"]:
        return Support.no("an average that leaves out the padding")
    return _plain_window(node)


@register(aten.avg_pool1d.default, aten.avg_pool2d.default, validate=_plain_average)
def average_pool(b: Builder, self: Value, kernel_size: Any, stride: Any, padding: Any, **_: Any) -> Value:
    """Mean of each window."""
    kernel = full(kernel_size, 1 if b.node and "1d" in str(b.node.target) else 2)
    return _pooled(b, self, kernel, stride, padding, "AVERAGE_POOL_2D", 0)


def _even_windows(node: Node) -> Support:
    sizes = list(bound(node)["output_size"])
    shape = (shape_of(bound(node)["self"]) or ())[-len(sizes) :]
    if all(int(n) % int(size) == 0 for n, size in zip(shape, sizes, strict=True)):
        return Support.yes()
    return Support.no("windows of several sizes", remedy="give the input a multiple of the output's size")


@register(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, validate=_even_windows)
def adaptive_average(b: Builder, self: Value, output_size: list[int]) -> Value:
    """Means of as many windows as wanted."""
    dims = len(output_size)
    if all(size == 1 for size in output_size):
        return b.reduce("MEAN", self, list(range(self.rank - dims, self.rank)), True)
    kernel = [n // size for n, size in zip(self.shape[-dims:], output_size, strict=True)]
    return _pooled(b, self, kernel, kernel, 0, "AVERAGE_POOL_2D", 0)


# ---- resampling ------------------------------------------------------------------------------


@register(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec)
def nearest(b: Builder, input: Value, output_size: Any, scale_factors: Any) -> Value:
    """Resampling by the nearest pixel below."""
    for i, size in enumerate(b.shape[2:]):
        known = input.shape[i + 2]
        factor = 1 / scale_factors[i] if scale_factors else known / size
        positions = np.minimum(np.floor(np.arange(size) * factor), known - 1)
        input = input if known == size else b.gather(input, b.const(positions.astype(np.int32)), i + 2)
    return input


@register(aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec, aten.upsample_bicubic2d.vec)
def interpolated(b: Builder, input: Value, output_size: Any, align_corners: bool, scale_factors: Any) -> Value:
    """Resampling along each dimension by a constant matrix of weights, which torch itself computes."""
    cubic = b.node is not None and "cubic" in str(b.node.target)
    for i, size in enumerate(b.shape[2:]):
        known = input.shape[i + 2]
        factor = scale_factors[i] if scale_factors else None
        matrix = _weights(known, size, factor, align_corners, cubic)
        order = [j for j in range(input.rank) if j != i + 2] + [i + 2]
        moved = multiplied(b, b.transpose(input, order), b.const(matrix.numpy(), input.dtype))
        input = b.transpose(moved, [order.index(j) for j in range(input.rank)])
    return input


def _weights(known: int, size: int, factor: float | None, corners: bool, cubic: bool) -> torch.Tensor:
    """The matrix [known, size] that resamples one dimension."""
    eye = torch.eye(known).reshape(1, known, known, 1)
    mode = "bicubic" if cubic else "bilinear"
    if factor is not None:
        scales = (float(factor), 1.0)
        found = interpolate(eye, None, scales, mode, corners, recompute_scale_factor=False)
        if found.shape[2] == size:
            return found[0, :, :, 0]
    return interpolate(eye, size=(size, 1), mode=mode, align_corners=corners)[0, :, :, 0]
