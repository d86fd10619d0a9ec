"""A residual, a bias and a norm as one pass over memory: what stands between two halves of a layer.

The reference, made of ATen ops, is what runs wherever the kernel does not: on CPUs, in float64, without Triton.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

MAX_WIDTH = 8192


def residual_norm(
    x: Tensor,
    residual: Tensor | None,
    bias: Tensor | None,
    weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    rms: bool,
    keep_sum: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """`norm(x + bias + residual)`, and the sum itself where it is used further.

    Args:
        x: [..., width].
        residual: As `x`, None for none.
        bias: [width], None for none.
        weight: [width], None for none.
        norm_bias: [width], None for none.
        eps: Of the norm.
        rms: A root-mean-square norm instead of a layer norm.
        keep_sum: Return the sum as well.

    Returns:
        The norm, or (sum, norm).
    """
    width = x.shape[-1]
    if x.is_cuda and x.dtype in (torch.float16, torch.bfloat16) and width <= MAX_WIDTH and find_spec("triton"):
        from graphwright.lowering.eager.kernels.residual_norm_triton import launch

        total, normed = launch(x, residual, bias, weight, norm_bias, eps, rms, keep_sum)
    else:
        total, normed = reference(x, residual, bias, weight, norm_bias, eps, rms)
    return (total, normed) if keep_sum else normed


def reference(
    x: Tensor,
    residual: Tensor | None,
    bias: Tensor | None,
    weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    rms: bool,
) -> tuple[Tensor, Tensor]:
    """(sum, norm) by ATen ops."""
    total = x if bias is None else x + bias
    total = total if residual is None else total + residual
    sizes = [x.shape[-1]]
    if rms:
        return total, torch.rms_norm(total, sizes, weight, eps)
    return total, torch.layer_norm(total, sizes, weight, norm_bias, eps)
