# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
"""The Triton kernel of `residual_norm`: each program reads one row once, in float32 between loading and storing."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _residual_norm(
    x_ptr, residual, bias, weight, norm_bias, total_ptr, out, count, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, RMS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_WEIGHT: tl.constexpr, HAS_NORM_BIAS: tl.constexpr, KEEP_SUM: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, BLOCK)
    inside = cols < WIDTH
    place = rows.to(tl.int64)[:, None] * WIDTH + cols[None, :]
    both = (rows < count)[:, None] & inside[None, :]
    total = tl.load(x_ptr + place, mask=both, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        total += tl.load(residual + place, mask=both, other=0.0).to(tl.float32)
    if HAS_BIAS:
        total += tl.load(bias + cols, mask=inside, other=0.0).to(tl.float32)[None, :]
    dtype = out.dtype.element_ty
    if KEEP_SUM:
        rounded = total.to(dtype)
        tl.store(total_ptr + place, rounded, mask=both)
        total = rounded.to(tl.float32)
    if not RMS:
        mean = tl.sum(total, 1) / WIDTH
        total = tl.where(inside[None, :], total - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(total * total, 1) / WIDTH + eps)
    total = total * scale[:, None]
    if HAS_WEIGHT:
        total = total * tl.load(weight + cols, mask=inside, other=0.0).to(tl.float32)[None, :]
    if HAS_NORM_BIAS:
        total += tl.load(norm_bias + cols, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(out + place, total.to(dtype), mask=both)


def program_sizes(width: int) -> tuple[int, int]:
    """(rows, warps) of a program; measured on an H100."""
    block = triton.next_power_of_2(width)
    return max(1, 1024 // block), min(max(block // 256, 1), 16)


def launch(
    x: Tensor,
    residual: Tensor | None,
    bias: Tensor | None,
    weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    rms: bool,
    keep_sum: bool,
    sizes: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the kernel; the arguments are those of `residual_norm`, the sum is `x` itself where it is not kept.

    `sizes` are rows and warps of a program, by default those of `program_sizes`.
    """
    x = x.contiguous()
    out = torch.empty_like(x)
    total = torch.empty_like(x) if keep_sum else x
    width = x.shape[-1]
    count = x.numel() // width
    rows, warps = sizes or program_sizes(width)
    vectors = [x if vector is None else vector.contiguous() for vector in (residual, bias, weight, norm_bias)]
    if count:
        _residual_norm[(triton.cdiv(count, rows),)](
            x, *vectors, total, out, count, eps,
            WIDTH=width, BLOCK=triton.next_power_of_2(width), ROWS=rows, RMS=rms, HAS_RESIDUAL=residual is not None,
            HAS_BIAS=bias is not None, HAS_WEIGHT=weight is not None, HAS_NORM_BIAS=norm_bias is not None,
            KEEP_SUM=keep_sum, num_warps=warps,
        )  # fmt: skip
    return total, out
