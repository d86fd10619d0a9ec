# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
"""The Triton kernel of `graphwright::gemv`.

Each program computes a few rows of one weight. It asks for its first tile of the weight before it waits for the kernel
before it (programmatic dependent launch, on Hopper and later), so that the memory never rests between two linears.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from graphwright.lowering.eager.kernels.gemv import ACTIVATIONS, NORMS


@triton.jit
def _activate(x, KIND: tl.constexpr):
    if KIND == 1:
        x = x / (1.0 + tl.exp(-x))
    elif KIND == 2:
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif KIND == 3:
        inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        x = x / (1.0 + tl.exp(-2.0 * inner))
    elif KIND == 4:
        x = tl.maximum(x, 0.0)
    return x


@triton.jit
def _normed(raw, weight, bias, mean, scale, inside, NORM: tl.constexpr, HAS_NW: tl.constexpr, HAS_NB: tl.constexpr):
    """A piece of the (normed) row, in float32 after the roundings of the norm, with its pieces of weight and bias."""
    x = raw.to(tl.float32)
    if NORM > 0:
        x = (x - mean) * scale
        if NORM == 2:
            x = x.to(raw.dtype).to(tl.float32)
        if HAS_NW:
            x = x * weight.to(tl.float32)
        if HAS_NB:
            x = x + bias.to(tl.float32)
        x = tl.where(inside, x.to(raw.dtype).to(tl.float32), 0.0)
    return x


@triton.jit
def _read_x(
    x_ptr, norm_w, norm_b, mean, scale, cols, inside, NORM: tl.constexpr, HAS_NW: tl.constexpr, HAS_NB: tl.constexpr
):
    """A piece of the (normed) row, read here."""
    raw = tl.load(x_ptr + cols, mask=inside, other=0.0)
    weight = tl.load(norm_w + cols, mask=inside, other=0.0) if HAS_NW else raw
    bias = tl.load(norm_b + cols, mask=inside, other=0.0) if HAS_NB else raw
    return _normed(raw, weight, bias, mean, scale, inside, NORM, HAS_NW, HAS_NB)


@triton.jit
def _gemv(
    x_ptr, w0, w1, w2, b0, b1, b2, norm_w, norm_b, residual, out,
    n0, n1, n2, width, eps,
    K: tl.constexpr, M: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, NORM: tl.constexpr, HAS_NW: tl.constexpr,
    HAS_NB: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr, COUNT: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
    pid = tl.program_id(0)
    w = w0
    b = b0
    n = n0
    first = pid * BN
    offset = 0
    if COUNT > 1 and not GATED:
        blocks0 = tl.cdiv(n0, BN)
        if pid >= blocks0:
            w = w1
            b = b1
            n = n1
            first = (pid - blocks0) * BN
            offset = n0
        if COUNT > 2:
            blocks1 = blocks0 + tl.cdiv(n1, BN)
            if pid >= blocks1:
                w = w2
                b = b2
                n = n2
                first = (pid - blocks1) * BN
                offset = n0 + n1
    rows = first + tl.arange(0, BN)
    valid = rows < n
    cols = tl.arange(0, BK)
    start = rows.to(tl.int64)[:, None] * K + cols[None, :]
    inside = valid[:, None] & (cols < K)[None, :]
    tile = tl.load(w + start, mask=inside, other=0.0, eviction_policy="evict_first")
    if GATED:
        tile1 = tl.load(w1 + start, mask=inside, other=0.0, eviction_policy="evict_first")
    if PDL:
        gdc_wait()
    for m in tl.static_range(M):
        row = x_ptr + m * K
        mean = 0.0
        scale = 1.0
        if NORM > 0:
            total = tl.zeros([BK], dtype=tl.float32)
            square = tl.zeros([BK], dtype=tl.float32)
            for k in tl.static_range(0, K, BK):
                part = tl.load(row + k + cols, mask=k + cols < K, other=0.0).to(tl.float32)
                total += part
                square += part * part
            if NORM == 3:
                mean = tl.sum(total, 0) / K
                scale = tl.rsqrt(tl.sum(square, 0) / K - mean * mean + eps)
            else:
                scale = tl.rsqrt(tl.sum(square, 0) / K + eps)
        x = _read_x(row, norm_w, norm_b, mean, scale, cols, cols < K, NORM, HAS_NW, HAS_NB)
        acc = tile.to(tl.float32) * x[None, :]
        if GATED:
            acc1 = tile1.to(tl.float32) * x[None, :]
        for k in tl.static_range(BK, K, BK):
            more = valid[:, None] & (k + cols < K)[None, :]
            piece = tl.load(w + start + k, mask=more, other=0.0, eviction_policy="evict_first")
            x = _read_x(row, norm_w, norm_b, mean, scale, k + cols, k + cols < K, NORM, HAS_NW, HAS_NB)
            acc += piece.to(tl.float32) * x[None, :]
            if GATED:
                piece1 = tl.load(w1 + start + k, mask=more, other=0.0, eviction_policy="evict_first")
                acc1 += piece1.to(tl.float32) * x[None, :]
        result = tl.sum(acc, 1)
        if HAS_BIAS:
            result += tl.load(b + rows, mask=valid, other=0.0).to(tl.float32)
        dtype = out.dtype.element_ty
        if ACTIVATION > 0:
            result = _activate(result.to(dtype).to(tl.float32), ACTIVATION)
        if GATED:
            other = tl.sum(acc1, 1)
            if HAS_BIAS:
                other += tl.load(b1 + rows, mask=valid, other=0.0).to(tl.float32)
            result = result.to(dtype).to(tl.float32) * other.to(dtype).to(tl.float32)
        place = m * width + offset + rows
        if HAS_RESIDUAL:
            result = result.to(dtype).to(tl.float32) + tl.load(residual + place, mask=valid, other=0.0).to(tl.float32)
        tl.store(out + place, result.to(dtype), mask=valid)


@cache
def has_dependent_launch(index: int) -> bool:
    """Whether a GPU can start a kernel before the one before it has ended."""
    return torch.cuda.get_device_capability(index)[0] >= 9


def tile_sizes(features_in: int, element_bytes: int, gated: bool) -> tuple[int, int, int]:
    """(rows, columns, warps) of a program: about 16 KiB of weight in flight for each; measured on an H100."""
    columns = min(triton.next_power_of_2(features_in), 4096 // element_bytes)
    if features_in % (2 * columns) == 0 and features_in > 2 * columns and not gated:
        return 2, 2 * columns, 8
    rows = max(1, 16384 // (columns * element_bytes))
    halves = 2 if gated or features_in > 2 * columns else 1
    return max(1, min(rows, 16) // halves), columns, 4


def launch(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    norm: str,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    activation: str,
    gated: bool,
    residual: Tensor | None,
    sizes: tuple[int, int, int] | None = None,
) -> Tensor:
    """Run the kernel; the arguments are those of `graphwright::gemv`.

    `sizes` are rows, columns and warps of a program, by default those of `tile_sizes`.
    """
    x = x.contiguous()
    features, count = x.shape[-1], len(weights)
    widths = [weight.shape[0] for weight in weights]
    rows, columns, warps = sizes or tile_sizes(features, x.element_size(), gated)
    width = widths[0] if gated else sum(widths)
    out = x.new_empty((*x.shape[:-1], width))
    grid = (sum(triton.cdiv(n, rows) for n in (widths[:1] if gated else widths)),)
    filled = lambda items, default: [*items, *[default] * (3 - count)]  # noqa: E731
    pointers: list[Any] = [*filled(weights, weights[0]), *filled([x if b is None else b for b in biases], x)]
    dependent = has_dependent_launch(x.device.index or 0)
    _gemv[grid](
        x, *pointers, x if norm_weight is None else norm_weight, x if norm_bias is None else norm_bias,
        x if residual is None else residual.contiguous(), out,
        *filled(widths, 0), width, eps,
        K=features, M=x.numel() // features, BN=rows, BK=columns, NORM=NORMS.index(norm),
        HAS_NW=norm_weight is not None, HAS_NB=norm_bias is not None, ACTIVATION=ACTIVATIONS.index(activation),
        GATED=gated, HAS_BIAS=biases[0] is not None, HAS_RESIDUAL=residual is not None, COUNT=count, PDL=dependent,
        num_warps=warps, launch_pdl=dependent,
    )  # fmt: skip
    return out
