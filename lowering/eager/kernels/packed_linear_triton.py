# ruff: noqa: ANN001, ANN202, SIM300
"""Triton kernels of packed linears: 4-bit codes become half precision in registers, 8 of them by 8 instructions.

Codes are stored in blocks of 128 columns: byte `j` of a block holds column `j` in its low half and column `64 + j` in
its high half, so that either half multiplies neighbouring elements of the input. A code is or-ed into the mantissa of
128 (bfloat16) or 1024 (float16), where it counts as itself.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128
HALF = tl.constexpr(64)
MAGIC = {torch.bfloat16: 128.0, torch.float16: 1024.0}

_UNPACK = """
{
    .reg .b32 t0, t1, u0, u1;
    prmt.b32 t0, $4, 0, 0x4140;
    prmt.b32 t1, $4, 0, 0x4342;
    shr.u32 u0, t0, 4;
    shr.u32 u1, t1, 4;
    lop3.b32 $0, t0, 0x000F000F, MAGIC, 0xEA;
    lop3.b32 $1, t1, 0x000F000F, MAGIC, 0xEA;
    lop3.b32 $2, u0, 0x000F000F, MAGIC, 0xEA;
    lop3.b32 $3, u1, 0x000F000F, MAGIC, 0xEA;
}
"""
_BFLOAT16 = tl.constexpr(_UNPACK.replace("MAGIC", "0x43004300"))
_FLOAT16 = tl.constexpr(_UNPACK.replace("MAGIC", "0x64006400"))


@triton.jit
def _unpack(octets, DTYPE: tl.constexpr, ASM: tl.constexpr):
    """(low, high) codes plus 128 or 1024, in half precision."""
    magic: tl.constexpr = 128 if DTYPE == tl.bfloat16 else 1024
    if not ASM:
        return ((octets & 15).to(tl.int32) + magic).to(DTYPE), ((octets >> 4).to(tl.int32) + magic).to(DTYPE)
    elif DTYPE == tl.bfloat16:
        return tl.inline_asm_elementwise(
            _BFLOAT16, "=r,=r,=r,=r,r", [octets], (tl.bfloat16, tl.bfloat16), is_pure=True, pack=4
        )
    else:
        return tl.inline_asm_elementwise(
            _FLOAT16, "=r,=r,=r,=r,r", [octets], (tl.float16, tl.float16), is_pure=True, pack=4
        )


@triton.jit
def _grid_of(ptr, rows, valid, first, inside, N, GROUP: tl.constexpr):
    """A value for each row and group of 64 columns [BN, 1], or for each column where groups are smaller [BN, 64]."""
    if GROUP >= 64:
        values = tl.load(ptr + (first // GROUP) * N + rows, mask=valid, other=0.0)
        return values[:, None]
    else:
        places = ((first + inside) // GROUP)[None, :] * N + rows[:, None]
        return tl.load(ptr + places, mask=valid[:, None], other=0.0)


@triton.jit(do_not_specialize=["M"])
def _matrix(
    x_ptr, w_ptr, s_ptr, z_ptr, b_ptr, out_ptr, parts_ptr, counts_ptr, M, N, K: tl.constexpr, GROUP: tl.constexpr,
    HAS_BIAS: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr, SPLIT: tl.constexpr, LATE: tl.constexpr,
    MIDDLE: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """A tile of BN outputs for BM rows; the weight is the first operand, which tensor cores read from registers.

    With SPLIT programs for a tile, each adds up its share of the columns; the last to end adds the shares in order.
    LATE scales the sums of a block in float32 instead of the weights.
    """
    tile = tl.program_id(0)
    share = tl.program_id(2)
    rows = tile * BN + tl.arange(0, BN)
    columns = tl.program_id(1) * BM + tl.arange(0, BM)
    valid = rows < N
    wanted = columns < M
    inside = tl.arange(0, HALF)
    starts = w_ptr + rows.to(tl.int64)[:, None] * (K // 2) + inside[None, :]
    sources = x_ptr + columns.to(tl.int64)[None, :] * K + inside[:, None]
    dtype = x_ptr.dtype.element_ty
    acc = tl.zeros([BN, BM], dtype=tl.float32)
    blocks: tl.constexpr = K // 128
    per_share: tl.constexpr = (blocks + SPLIT - 1) // SPLIT
    begin = share * per_share
    end = min(begin + per_share, blocks)
    for block in range(begin, end):
        first = block * 128
        octets = tl.load(starts + block * 64, mask=valid[:, None], other=0)
        x0 = tl.load(sources + first, mask=wanted[None, :], other=0.0)
        x1 = tl.load(sources + first + 64, mask=wanted[None, :], other=0.0)
        low, high = _unpack(octets, dtype, ASM)
        z0 = tl.zeros([1, 1], dtype=dtype) + MIDDLE
        if MIDDLE == 0:
            z0 = _grid_of(z_ptr, rows, valid, first, inside, N, GROUP)
        s0 = _grid_of(s_ptr, rows, valid, first, inside, N, GROUP)
        if LATE:
            part = tl.dot(low - z0, x0)
            part = tl.dot(high - z0, x1, part)
            acc += part * s0.to(tl.float32)
        else:
            z1 = z0
            s1 = s0
            if GROUP < 128:
                if MIDDLE == 0:
                    z1 = _grid_of(z_ptr, rows, valid, first + 64, inside, N, GROUP)
                s1 = _grid_of(s_ptr, rows, valid, first + 64, inside, N, GROUP)
            acc = tl.dot((low - z0) * s0.to(dtype), x0, acc)
            acc = tl.dot((high - z1) * s1.to(dtype), x1, acc)
    place = columns.to(tl.int64)[None, :] * N + rows[:, None]
    inner = valid[:, None] & wanted[None, :]
    if SPLIT > 1:
        size = tl.cast(M, tl.int64) * N
        tl.store(parts_ptr + share * size + place, acc, mask=inner)
        tl.debug_barrier()
        count = counts_ptr + tl.program_id(1) * tl.num_programs(0) + tile
        before = tl.atomic_add(count, 1, sem="acq_rel")
        if before == SPLIT - 1:
            total = tl.zeros([BN, BM], dtype=tl.float32)
            for other in range(0, SPLIT):
                total += tl.load(parts_ptr + other * size + place, mask=inner, other=0.0, cache_modifier=".cg")
            if HAS_BIAS:
                total += tl.load(b_ptr + rows, mask=valid, other=0.0).to(tl.float32)[:, None]
            tl.store(out_ptr + place, total.to(dtype), mask=inner)
            tl.store(count, 0)
    else:
        if HAS_BIAS:
            acc += tl.load(b_ptr + rows, mask=valid, other=0.0).to(tl.float32)[:, None]
        tl.store(out_ptr + place, acc.to(dtype), mask=inner)


@triton.jit
def _spread(
    w_ptr, s_ptr, z_ptr, out_ptr, N, K: tl.constexpr, GROUP: tl.constexpr, BN: tl.constexpr, MIDDLE: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Dequantize BN rows of one block of columns."""
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    first = tl.program_id(1) * 128
    valid = rows < N
    inside = tl.arange(0, HALF)
    dtype = out_ptr.dtype.element_ty
    octets = tl.load(w_ptr + rows.to(tl.int64)[:, None] * (K // 2) + first // 2 + inside[None, :], valid[:, None], 0)
    low, high = _unpack(octets, dtype, ASM)
    place = out_ptr + rows.to(tl.int64)[:, None] * K + first + inside[None, :]
    z0 = tl.zeros([1, 1], dtype=dtype) + MIDDLE
    z1 = z0
    if MIDDLE == 0:
        z0 = _grid_of(z_ptr, rows, valid, first, inside, N, GROUP)
        z1 = _grid_of(z_ptr, rows, valid, first + 64, inside, N, GROUP)
    s0 = _grid_of(s_ptr, rows, valid, first, inside, N, GROUP).to(tl.float32)
    s1 = _grid_of(s_ptr, rows, valid, first + 64, inside, N, GROUP).to(tl.float32)
    tl.store(place, ((low - z0).to(tl.float32) * s0).to(dtype), mask=valid[:, None])
    tl.store(place + 64, ((high - z1).to(tl.float32) * s1).to(dtype), mask=valid[:, None])


def matrix(
    x: Tensor, weight: Tensor, scales: Tensor, zeros: Tensor | None, bias: Tensor | None, group_size: int,
    counts: Tensor, *, rows: int = 64, columns: int = 16, split: int = 1, late: bool = True, warps: int = 4,
    stages: int = 4, asm: bool = True,
) -> Tensor:  # fmt: skip
    """[M, K] times the weight, in the dtype of x.

    Args:
        x: [M, K], bfloat16 or float16, dense; K is a multiple of 128.
        weight: [N, K / 2], uint8, in blocks as the module says.
        scales: [G, N], in the dtype of x.
        zeros: [G, N], each plus 128 or 1024; None for 8.
        bias: [N].
        group_size: 32, 64, or a multiple of 128.
        counts: int32, zeros, one for each tile; zeros again afterwards.
        rows: Outputs of a tile.
        columns: Rows of x of a tile.
        split: Programs for a tile, each for a share of K.
        late: Scale sums instead of weights, in float32, where groups are whole blocks.
        warps: Of a program.
        stages: Blocks under way.
        asm: Unpack with PTX; without, the kernel also runs in Triton's interpreter.
    """
    outputs, inputs, count = weight.shape[0], weight.shape[1] * 2, x.shape[0]
    out = x.new_empty((count, outputs))
    parts = x.new_empty((split, count, outputs), dtype=torch.float32) if split > 1 else out
    grid = (triton.cdiv(outputs, rows), triton.cdiv(count, columns), split)
    _matrix[grid](
        x, weight, scales, x if zeros is None else zeros, x if bias is None else bias, out, parts, counts, count,
        outputs, K=inputs, GROUP=group_size, HAS_BIAS=bias is not None, BN=rows, BM=columns, SPLIT=split,
        LATE=late and group_size >= BLOCK, MIDDLE=_middle(x.dtype, zeros), ASM=asm, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


def spread(
    weight: Tensor, scales: Tensor, zeros: Tensor | None, group_size: int, dtype: torch.dtype, *, asm: bool = True
) -> Tensor:
    """The weight [N, K] in half precision; the arguments are those of `matrix`."""
    outputs, inputs = weight.shape[0], weight.shape[1] * 2
    out = torch.empty((outputs, inputs), dtype=dtype, device=weight.device)
    grid = (triton.cdiv(outputs, 32), inputs // BLOCK)
    _spread[grid](
        weight, scales, scales if zeros is None else zeros, out, outputs, K=inputs, GROUP=group_size, BN=32,
        MIDDLE=_middle(dtype, zeros), ASM=asm, num_warps=4,
    )  # fmt: skip
    return out


def _middle(dtype: torch.dtype, zeros: Tensor | None) -> float:
    """The zero of symmetric weights as the kernels subtract it; 0 where zeros are read."""
    return MAGIC[dtype] + 8 if zeros is None else 0.0
