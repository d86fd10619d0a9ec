"""Layers: products with a bias, tables, norms, and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions

from graphwright.lowering.furiosa.decompositions import RULES, rule

aten = torch.ops.aten

RULES.update(get_decompositions([aten.upsample_bilinear2d.vec, aten.upsample_bicubic2d.vec, aten.grid_sampler_2d]))


@rule(aten.addmm.default)
def addmm(bias: Tensor, x: Tensor, weight: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Product of two matrices, and a bias."""
    product = torch.mm(x, weight)
    return (product if alpha == 1 else product * alpha) + (bias if beta == 1 else bias * beta)


@rule(aten.baddbmm.default)
def baddbmm(bias: Tensor, x: Tensor, weight: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Products of matrices, and a bias."""
    product = torch.bmm(x, weight)
    return (product if alpha == 1 else product * alpha) + (bias if beta == 1 else bias * beta)


@rule(aten.embedding.default)
def embedding(weight: Tensor, indices: Tensor, *_: Any) -> Tensor:
    """Rows of a table."""
    return weight.index_select(0, indices.reshape(-1)).reshape(*indices.shape, weight.shape[1])


@rule(aten.native_batch_norm.default, aten._native_batch_norm_legit_no_training.default)
def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm by its running statistics; as in torch, the statistics of the batch that come with it are empty."""
    eps = options[-1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    factor = torch.rsqrt(variance + eps) if weight is None else torch.rsqrt(variance + eps) * weight
    shift = -mean * factor if bias is None else bias - mean * factor
    return x * factor.reshape(shape) + shift.reshape(shape), x.new_empty(0), x.new_empty(0)


@rule(aten.layer_norm.default)
def layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: bool,
) -> Tensor:
    """Norm over the last axes, computed in float32 at least."""
    normed = _normed(_wide(x), list(range(-len(shape), 0)), eps)
    return _affine(normed, weight, bias).to(x.dtype)


@rule(aten.group_norm.default)
def group_norm(
    x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: bool
) -> Tensor:
    """Norm over groups of channels, computed in float32 at least."""
    normed = _normed(_wide(x).reshape(x.shape[0], groups, -1), [-1], eps).reshape(x.shape)
    shape = [1, -1] + [1] * (x.dim() - 2)
    weight, bias = (None if p is None else p.reshape(shape) for p in (weight, bias))
    return _affine(normed, weight, bias).to(x.dtype)


@rule(aten.rms_norm.default)
def rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """Norm by the root of the mean square, computed in float32 at least."""
    wide, axes = _wide(x), list(range(-len(shape), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return _affine(wide * torch.rsqrt((wide * wide).mean(axes, keepdim=True) + eps), weight, None).to(x.dtype)


def _normed(x: Tensor, axes: list[int], eps: float) -> Tensor:
    """Mean 0 and variance 1. The compiler has `var_mean`, but fails on it where nothing else is in the graph."""
    centred = x - x.mean(axes, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(axes, keepdim=True) + eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@rule(aten.avg_pool1d.default)
def avg_pool1d(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,), *flags: bool
) -> Tensor:
    """Means along the last axis, by windows of one row."""
    sizes = ([1, kernel[0]], [1, (stride or kernel)[0]], [0, padding[0]])
    return aten.avg_pool2d(x.unsqueeze(-2), *sizes, *flags).squeeze(-2)


@rule(aten.adaptive_avg_pool1d.default)
def adaptive_avg_pool1d(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """Means over parts of the last axis.

    Raises:
        ValueError: The parts would not be of one size.
    """
    (count,) = output_size
    if x.shape[-1] % count:
        raise ValueError("parts of several sizes")
    return x.reshape(*x.shape[:-1], count, x.shape[-1] // count).mean(-1)
