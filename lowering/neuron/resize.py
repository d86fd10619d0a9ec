"""Resampling of images and sequences: each dimension is multiplied by the weights that torch gives its entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphwright.lowering.neuron.builder import Builder, Out, Value
from graphwright.lowering.neuron.indexing import taken
from graphwright.lowering.neuron.pooling import mixed
from graphwright.lowering.neuron.reduce import wide
from graphwright.lowering.neuron.table import register

aten = torch.ops.aten


def _factor(scales: Sequence[float] | None, axis: int) -> list[float] | None:
    return None if not scales else [float(scales[axis])]


@register(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec)
def nearest(b: Builder, input: Value, output_size: Any, scale_factors: Any) -> Any:
    """The entry at or before each position."""
    out = input.out
    for i, axis in enumerate(range(2, input.rank)):
        old, new = input.shape[axis], int(b.result.shape[axis])
        row = torch.arange(old, dtype=torch.float32).reshape(1, 1, old)
        factor = _factor(scale_factors, i)
        places = aten.upsample_nearest1d.vec(row, None if factor else [new], factor)
        out = taken(b, out, b.dense(places.reshape(-1).int()), axis)
    return out


@register(aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec)
def linear(b: Builder, input: Value, output_size: Any, align_corners: bool, scale_factors: Any) -> Any:
    """Linear interpolation."""

    def weights(eye: torch.Tensor, new: int, factor: list[float] | None) -> torch.Tensor:
        return aten.upsample_linear1d.vec(eye, None if factor else [new], align_corners, factor)

    return _resampled(b, input, scale_factors, weights)


@register(aten.upsample_bicubic2d.vec)
def cubic(b: Builder, input: Value, output_size: Any, align_corners: bool, scale_factors: Any) -> Any:
    """Cubic interpolation."""

    def weights(eye: torch.Tensor, new: int, factor: list[float] | None) -> torch.Tensor:
        image = eye.unsqueeze(2)
        sizes = None if factor else [1, new]
        return aten.upsample_bicubic2d.vec(image, sizes, align_corners, [1.0, *factor] if factor else None).squeeze(2)

    return _resampled(b, input, scale_factors, weights)


def _resampled(b: Builder, input: Value, scales: Any, weights: Any) -> Out:
    """Each dimension mixed; the weights are how an identity matrix is resampled."""
    out = wide(b, input.out)
    for i, axis in enumerate(range(2, input.rank)):
        eye = torch.eye(input.shape[axis], dtype=torch.float64).unsqueeze(0)
        shares = weights(eye, int(b.result.shape[axis]), _factor(scales, i))[0]
        out = mixed(b, out, shares.float(), axis)
    return b.cast(out, input.dtype)
