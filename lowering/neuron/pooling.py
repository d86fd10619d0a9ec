"""Pooling."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from graphwright.lowering.common import full
from graphwright.lowering.neuron.builder import Builder, Out, Value, element, sizes
from graphwright.lowering.neuron.matmul import contracted
from graphwright.lowering.neuron.reduce import mean, neutral, wide, windows
from graphwright.lowering.neuron.table import register
from graphwright.lowering.neuron.xla import hlo

aten = torch.ops.aten


Window = dict[str, list[int]]


def _window(
    self: Value, shape: Any, kernel: list[int], stride: list[int], pads: list[int], spread: list[int]
) -> Window:
    """A window over the last dimensions; rounding up the result's size adds padding at the end."""
    lead = self.rank - len(kernel)
    high = []
    for i, width in enumerate(kernel):
        reach = (int(shape[lead + i]) - 1) * stride[i] + (width - 1) * spread[i] + 1
        high.append(max(reach - self.shape[lead + i] - pads[i], 0))
    ones, zeros = [1] * lead, [0] * lead
    return {"size": ones + kernel, "step": ones + stride, "low": zeros + pads, "high": zeros + high}


@register(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)
def max_pool(
    b: Builder, self: Value, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Any:
    """Largest value of each window."""
    dims = len(kernel_size) if isinstance(kernel_size, (list, tuple)) else 1
    kernel, spread = full(kernel_size, dims), full(dilation, dims)
    steps = full(stride, dims) if stride else kernel
    window = _window(self, b.result.shape, kernel, steps, full(padding, dims), spread)
    if any(gap > 1 for gap in spread):
        return _dilated(b, self, window, spread)
    return _exactly(b, windows(b, self.out, "max", **window), b.result.shape)


def _dilated(b: Builder, self: Value, window: Window, spread: list[int]) -> Out:
    """Largest value of windows with gaps, which the compiler takes no windows for: of slices, one for each entry."""
    lowest = neutral(b, "max", element(self.out))
    data = b.pad(self.out, window["low"], window["high"], lowest)
    lead, best = self.rank - len(spread), None
    for offset in itertools.product(*(range(width) for width in window["size"][lead:])):
        part = data
        for i, at in enumerate(offset):
            step, count = window["step"][lead + i], int(b.result.shape[lead + i])
            start = at * spread[i]
            part = b.slice(part, lead + i, start, start + (count - 1) * step + 1, step)
        best = part if best is None else hlo.maximum(best, part)
    return best


def _exactly(b: Builder, out: Out, shape: Any) -> Out:
    """The first windows, where padding at the end made room for more."""
    for axis, size in enumerate(shape):
        out = b.slice(out, axis, 0, int(size))
    return out


@register(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.avg_pool3d.default)
def average_pool(
    b: Builder, self: Value, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool,
    divisor_override: int | None = None,
) -> Any:  # fmt: skip
    """Mean of each window; what lies beyond the padding is never counted."""
    dims, shape = len(kernel_size), b.result.shape
    pads, steps = full(padding, dims), full(stride, dims) if stride else list(kernel_size)
    window = _window(self, shape, list(kernel_size), steps, pads, [1] * dims)
    total = _exactly(b, windows(b, wide(b, self.out), "sum", **window), shape)
    if divisor_override is not None:
        return b.cast(hlo.divide(total, b.like(divisor_override, total)), self.dtype)
    unit = _units(self.shape[-dims:], list(kernel_size), steps, pads, ceil_mode, count_include_pad)
    factor = b.convert(b.dense(unit), total.type.element_type)
    return b.cast(hlo.multiply(total, b.broadcast(factor, sizes(total))), self.dtype)


def _units(
    shape: Any, kernel: list[int], stride: list[int], pads: list[int], ceil_mode: bool, count_include_pad: bool
) -> torch.Tensor:
    """One divided by the number that torch divides each sum by, which is smaller at the edges."""
    lead = [1] * (2 - len(kernel))  # a row is an image of height 1
    ones = torch.ones([1, 1, *lead, *shape], dtype=torch.float64)
    pool = torch.nn.functional.avg_pool3d if len(kernel) == 3 else torch.nn.functional.avg_pool2d
    window: dict[str, Any] = {
        "kernel_size": [*lead, *kernel],
        "stride": [*lead, *stride],
        "padding": [*[0 for _ in lead], *pads],
    }
    means = pool(ones, **window, ceil_mode=ceil_mode, count_include_pad=count_include_pad)
    sums = pool(ones, **window, ceil_mode=ceil_mode, divisor_override=1)
    unit = (means / sums)[0, 0].float()
    return unit[0] if lead else unit


@register(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default)
def adaptive_average(b: Builder, self: Value, output_size: list[int]) -> Any:
    """Means of as many windows as wanted: a product with the share of each entry in each window."""
    dims = len(output_size)
    data = wide(b, self.out)
    if all(size == 1 for size in output_size):
        return b.cast(mean(b, data, list(range(self.rank - dims, self.rank)), True), self.dtype)
    for axis in range(self.rank - dims, self.rank):
        size, count = self.shape[axis], int(b.result.shape[axis])
        shares = torch.nn.functional.adaptive_avg_pool1d(torch.eye(size, dtype=torch.float64), count)
        data = mixed(b, data, shares.float(), axis)
    return b.cast(data, self.dtype)


def mixed(b: Builder, out: Out, shares: torch.Tensor, axis: int) -> Out:
    """A dimension multiplied by a constant matrix [old size, new size]."""
    order = [d for d in range(len(sizes(out))) if d != axis]
    matrix = b.convert(b.dense(shares), out.type.element_type)
    product = contracted(b, out, matrix, (axis, 0))
    order.insert(axis, len(order))
    back = [d if d < axis else d - 1 for d in order]
    back[axis] = len(order) - 1
    return b.transpose(product, back)
