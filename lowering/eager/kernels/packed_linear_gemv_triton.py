# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
"""The Triton kernel of `graphwright::packed_gemv`: one row times packed weights, at the speed of reading the codes.

Each program multiplies a few outputs of one weight. The row becomes integers of 16 bits with a scale for each 32 of its
elements, an error of 2**-16 of the largest of them; so codes are multiplied four at a time, exactly, as bytes (`dp4a`).
The codes are asked for before the kernel before this one has ended (programmatic dependent launch), so that the memory
never rests between two linears.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from graphwright.lowering.eager.kernels.gemv import ACTIVATIONS, NORMS
from graphwright.lowering.eager.kernels.gemv_triton import _activate, _normed, has_dependent_launch
from graphwright.lowering.eager.kernels.packed_linear_triton import MAGIC

HIGHEST = tl.constexpr(32767.0)
ROUND = tl.constexpr(12582912.0)  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits
ROUND_BITS = tl.constexpr(0x4B400000)


@triton.jit
def _dot4(a, b, start, SIGNED: tl.constexpr, ASM: tl.constexpr):
    """`start` plus the product of the four bytes of `a`, unsigned, and of `b`."""
    if not ASM:
        for shift in tl.static_range(0, 32, 8):
            octet = (b >> shift) & 255
            start += ((a >> shift) & 255) * (octet - ((octet & 128) * 2 if SIGNED else 0))
        return start
    elif SIGNED:
        return tl.inline_asm_elementwise(
            "dp4a.u32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, start], tl.int32, is_pure=True, pack=1
        )
    else:
        return tl.inline_asm_elementwise(
            "dp4a.u32.u32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, start], tl.int32, is_pure=True, pack=1
        )


@triton.jit
def _low_bytes(a, b, c, d):
    return (a & 255) | ((b & 255) << 8) | ((c & 255) << 16) | (d << 24)


@triton.jit
def _integers(x, inverse):
    """Integers in the low 16 bits; the high bits are those of `ROUND`."""
    return (x * inverse + ROUND).to(tl.int32, bitcast=True)


@triton.jit
def _top(a, b):
    return tl.maximum(a, tl.abs(b), propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _fixed(a0, a1, b0, b1, c0, c1, d0, d1, BW: tl.constexpr):
    """The row as words of bytes: (low even, low odd, high even, high odd, sum of 8), each [BW], and scales [units]."""
    units: tl.constexpr = BW // 4
    top = _top(_top(_top(_top(tl.abs(a0), a1), b0), b1), _top(_top(_top(tl.abs(c0), c1), d0), d1))
    top = tl.reshape(top, [units, 4])
    largest = tl.max(top, 1) + tl.sum(top * 0.0, 1)
    inverse = tl.where(largest > 0, HIGHEST / largest, 0.0)
    inverse = tl.reshape(tl.broadcast_to(inverse[:, None], [units, 4]), [BW])
    a0 = _integers(a0, inverse)
    a1 = _integers(a1, inverse)
    b0 = _integers(b0, inverse)
    b1 = _integers(b1, inverse)
    c0 = _integers(c0, inverse)
    c1 = _integers(c1, inverse)
    d0 = _integers(d0, inverse)
    d1 = _integers(d1, inverse)
    total = (a0 + a1) + (b0 + b1) + (c0 + c1) + (d0 + d1)
    total -= (ROUND_BITS * 8) & 0xFFFFFFFF
    low_even = _low_bytes(a0, c0, a1, c1)
    low_odd = _low_bytes(b0, d0, b1, d1)
    high_even = _low_bytes(a0 >> 8, c0 >> 8, a1 >> 8, c1 >> 8)
    high_odd = _low_bytes(b0 >> 8, d0 >> 8, b1 >> 8, d1 >> 8)
    return low_even, low_odd, high_even, high_odd, total, largest / HIGHEST


@triton.jit
def _halves(ptr, cols, K: tl.constexpr):
    """Elements of a row, in two halves: of even and of odd columns."""
    return tl.split(tl.reshape(tl.load(ptr + cols, mask=cols < K, other=0.0), [cols.shape[0] // 2, 2]))


@triton.jit
def _row(ptr, cols, K: tl.constexpr):
    """A row by word, 8 x [BW]: even and odd columns of each of the four bytes, which are 8, 64 and 72 columns apart."""
    a0, a1 = _halves(ptr, cols, K)
    b0, b1 = _halves(ptr, cols + 8, K)
    c0, c1 = _halves(ptr, cols + 64, K)
    d0, d1 = _halves(ptr, cols + 72, K)
    return a0, a1, b0, b1, c0, c1, d0, d1


@triton.jit
def _sums(row):
    """[BW] each: sums and sums of squares by word."""
    plain = tl.zeros(row[0].shape, dtype=tl.float32)
    square = tl.zeros(row[0].shape, dtype=tl.float32)
    for i in tl.static_range(8):
        part = row[i].to(tl.float32)
        plain += part
        square += part * part
    return plain, square


@triton.jit
def _norm_row(x, nw, nb, mean, scale, inside, NORM: tl.constexpr, HAS_NW: tl.constexpr, HAS_NB: tl.constexpr):
    a0 = _normed(x[0], nw[0], nb[0], mean, scale, inside, NORM, HAS_NW, HAS_NB)
    a1 = _normed(x[1], nw[1], nb[1], mean, scale, inside, NORM, HAS_NW, HAS_NB)
    b0 = _normed(x[2], nw[2], nb[2], mean, scale, inside, NORM, HAS_NW, HAS_NB)
    b1 = _normed(x[3], nw[3], nb[3], mean, scale, inside, NORM, HAS_NW, HAS_NB)
    c0 = _normed(x[4], nw[4], nb[4], mean, scale, inside, NORM, HAS_NW, HAS_NB)
    c1 = _normed(x[5], nw[5], nb[5], mean, scale, inside, NORM, HAS_NW, HAS_NB)
    d0 = _normed(x[6], nw[6], nb[6], mean, scale, inside, NORM, HAS_NW, HAS_NB)
    d1 = _normed(x[7], nw[7], nb[7], mean, scale, inside, NORM, HAS_NW, HAS_NB)
    return a0, a1, b0, b1, c0, c1, d0, d1


@triton.jit
def _load(w, s, z, rows, n, begin, K: tl.constexpr, GROUP: tl.constexpr, BW: tl.constexpr, MAGIC: tl.constexpr):
    """Words [BN, BW] from `begin`, and a scale and a zero for each unit of 32 columns [BN, BW / 4]."""
    word = begin + tl.arange(0, BW)
    places = rows.to(tl.int64)[:, None] * (K // 8) + word[None, :]
    words = tl.load(w + places, mask=(word < K // 8)[None, :], other=0, eviction_policy="evict_first")
    unit = begin // 4 + tl.arange(0, BW // 4)
    group = tl.minimum(unit // 4 * 128, K - 1) // GROUP
    grid = group[None, :] * n + rows[:, None]
    scales = tl.load(s + grid)
    return words, scales, tl.load(z + grid) if MAGIC > 0 else scales


@triton.jit
def _piece(
    words, scales, zeros, low_even, low_odd, high_even, high_odd, total, x_scale,
    MAGIC: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """[BN, units]: what these words contribute."""
    units: tl.constexpr = scales.shape[1]
    even = words & 0x0F0F0F0F
    odd = (words >> 4) & 0x0F0F0F0F
    none = tl.zeros(words.shape, dtype=tl.int32)
    high = _dot4(odd, high_odd[None, :] + none, _dot4(even, high_even[None, :] + none, none, True, ASM), True, ASM)
    start = none if MAGIC > 0 else none - 8 * total[None, :]
    low = _dot4(odd, low_odd[None, :] + none, _dot4(even, low_even[None, :] + none, start, False, ASM), False, ASM)
    sums = tl.sum(tl.reshape(high * 256 + low, [words.shape[0], units, 4]), 2).to(tl.float32)
    if MAGIC > 0:
        whole = tl.sum(tl.reshape(total, [units, 4]), 1).to(tl.float32)
        sums -= (zeros.to(tl.float32) - MAGIC) * whole[None, :]
    return sums * (scales.to(tl.float32) * x_scale[None, :])


@triton.jit
def _packed_gemv(
    x_ptr, w0, w1, w2, s0, s1, s2, z0, z1, z2, bias0, bias1, bias2, norm_w, norm_b, residual, out, n0, n1, n2, eps,
    K: tl.constexpr, GROUP: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr, MAGIC: tl.constexpr,
    NORM: tl.constexpr,
    HAS_NW: tl.constexpr, HAS_NB: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr, COUNT: tl.constexpr, PDL: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
    pid = tl.program_id(0)
    w = w0
    s = s0
    z = z0
    b = bias0
    n = n0
    tile = pid
    offset = 0
    if COUNT > 1 and not GATED:
        tiles0 = tl.cdiv(n0, BN)
        if pid >= tiles0:
            w = w1
            s = s1
            z = z1
            b = bias1
            n = n1
            tile = pid - tiles0
            offset = n0
        if COUNT > 2:
            tiles1 = tiles0 + tl.cdiv(n1, BN)
            if pid >= tiles1:
                w = w2
                s = s2
                z = z2
                b = bias2
                n = n2
                tile = pid - tiles1
                offset = n0 + n1
    width: tl.constexpr = K // 8
    outputs = tile * BN + tl.arange(0, BN)
    valid = outputs < n
    rows = tl.minimum(outputs, n - 1)
    columns = tl.arange(0, BW * 2)
    columns = columns // 32 * 128 + columns // 2 % 4 * 16 + columns // 8 % 4 * 2 + columns % 2
    # What no kernel before this one writes is asked for before that one has ended.
    words, scales, zeros = _load(w, s, z, rows, n, 0, K, GROUP, BW, MAGIC)
    if GATED:
        words1, scales1, zeros1 = _load(w1, s1, z1, rows, n, 0, K, GROUP, BW, MAGIC)
    nw = _row(norm_w, columns, K)
    nb = _row(norm_b, columns, K)
    if PDL:
        gdc_wait()
    x = _row(x_ptr, columns, K)
    mean = 0.0
    scale = 1.0
    if NORM > 0:
        plain, square = _sums(x)
        for k in tl.static_range(BW * 8, K, BW * 8):
            more, squares = _sums(_row(x_ptr, k + columns, K))
            plain += more
            square += squares
        if NORM == 3:
            mean = tl.sum(plain, 0) / K
        scale = tl.rsqrt(tl.sum(square, 0) / K - mean * mean + eps)
    acc = tl.zeros([BN, BW // 4], dtype=tl.float32)
    acc1 = tl.zeros([BN, BW // 4], dtype=tl.float32)
    for begin in range(0, width, BW):
        if width > BW:
            next0, next_s, next_z = _load(w, s, z, rows, n, begin + BW, K, GROUP, BW, MAGIC)
            if GATED:
                next1, next_s1, next_z1 = _load(w1, s1, z1, rows, n, begin + BW, K, GROUP, BW, MAGIC)
            row = _row(x_ptr, begin * 8 + columns, K)
            row_w = _row(norm_w, begin * 8 + columns, K)
            row_b = _row(norm_b, begin * 8 + columns, K)
        else:
            row = x
            row_w = nw
            row_b = nb
        inside = begin + tl.arange(0, BW) < width
        a0, a1, b0, b1, c0, c1, d0, d1 = _norm_row(row, row_w, row_b, mean, scale, inside, NORM, HAS_NW, HAS_NB)
        le, lo, he, ho, total, x_scale = _fixed(a0, a1, b0, b1, c0, c1, d0, d1, BW)
        acc += _piece(words, scales, zeros, le, lo, he, ho, total, x_scale, MAGIC, ASM)
        if GATED:
            acc1 += _piece(words1, scales1, zeros1, le, lo, he, ho, total, x_scale, MAGIC, ASM)
        if width > BW:
            words = next0
            scales = next_s
            zeros = next_z
            if GATED:
                words1 = next1
                scales1 = next_s1
                zeros1 = next_z1
    dtype = out.dtype.element_ty
    result = tl.sum(acc, 1)
    if HAS_BIAS:
        result += tl.load(b + rows).to(tl.float32)
    if ACTIVATION > 0:
        result = _activate(result.to(dtype).to(tl.float32), ACTIVATION)
    if GATED:
        other = tl.sum(acc1, 1)
        if HAS_BIAS:
            other += tl.load(bias1 + rows).to(tl.float32)
        result = result.to(dtype).to(tl.float32) * other.to(dtype).to(tl.float32)
    if HAS_RESIDUAL:
        result = result.to(dtype).to(tl.float32) + tl.load(residual + offset + rows).to(tl.float32)
    tl.store(out + offset + outputs, result.to(dtype), mask=valid)


def launch(
    x: Tensor,
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
    zeros: Sequence[Tensor | None],
    biases: Sequence[Tensor | None],
    group_size: int,
    *,
    norm: str = "none",
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 0.0,
    activation: str = "none",
    gated: bool = False,
    residual: Tensor | None = None,
    sizes: tuple[int, int, int] | None = None,
    asm: bool = True,
) -> Tensor:
    """One row times one to three packed weights.

    `weights` [N, K / 2], `scales` [G, N] and `zeros` [G, N] are as `packed_linear_triton.matrix` reads them, `biases`
    [N] all or none; `group_size` is a multiple of 128, and what follows it as in `graphwright::gemv`. `sizes` are
    outputs and words of a tile and warps of a program, by default those of `tile_sizes`. Without `asm` the kernel also
    runs in Triton's interpreter.
    """
    inputs, count = weights[0].shape[1] * 2, len(weights)
    widths = [weight.shape[0] for weight in weights]
    rows, words, warps = sizes or tile_sizes(inputs)
    out = x.new_empty((*x.shape[:-1], widths[0] if gated else sum(widths)))
    filled = lambda items: [x if item is None else item for item in (*items, *[items[0]] * (3 - count))]  # noqa: E731
    pointers: list[Any] = [*filled([w.view(torch.int32) for w in weights]), *filled(scales), *filled(zeros)]
    rest = [x if item is None else item for item in (norm_weight, norm_bias, residual)]
    dependent = x.is_cuda and has_dependent_launch(x.device.index or 0)
    grid = (sum(triton.cdiv(n, rows) for n in (widths[:1] if gated else widths)),)
    _packed_gemv[grid](
        x, *pointers, *filled(biases), *rest, out, *filled(widths), eps,
        K=inputs, GROUP=group_size, BN=rows, BW=words,
        MAGIC=0.0 if zeros[0] is None else MAGIC[x.dtype],
        NORM=NORMS.index(norm), HAS_NW=norm_weight is not None, HAS_NB=norm_bias is not None,
        ACTIVATION=ACTIVATIONS.index(activation), GATED=gated, HAS_BIAS=biases[0] is not None,
        HAS_RESIDUAL=residual is not None, COUNT=count, PDL=dependent, ASM=asm,
        num_warps=warps, **({"launch_pdl": True} if dependent else {}),
    )  # fmt: skip
    return out


def tile_sizes(inputs: int) -> tuple[int, int, int]:
    """(outputs, words, warps) of a tile, from what was measured on an H100: a whole row of words where it is short."""
    words = triton.next_power_of_2(inputs // 8)
    return (16, words, max(1, words // 64)) if words <= 512 else (16, 256, 8)
