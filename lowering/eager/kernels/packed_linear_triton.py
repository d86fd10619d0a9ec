# ruff: noqa: ANN001, ANN202, SIM300
# mypy: disable-error-code="no-untyped-def"
"""Triton kernels of packed linears: 4-bit codes become half precision in registers, 8 of them by 7 instructions.

Codes are stored in blocks of 128 columns, in the order in which the threads of a tensor core's operand hold them:
nibble `p + 4e` of word `4c + m` of a block is column `64(p // 2) + 16m + 8(p % 2) + 2c + e`. So each thread reads 16
bytes at once, and an even and its odd column are unpacked together. A code is or-ed into the mantissa of 128 (bfloat16)
or 1024 (float16), where it counts as itself.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128
MAGIC = {torch.bfloat16: 128.0, torch.float16: 1024.0}

_UNPACK = """
{
    .reg .b32 a, b, c;
    shr.u32 a, $8, 4;
    shr.u32 b, $8, 8;
    shr.u32 c, $8, 12;
    lop3.b32 a, a, 0x000F000F, MAGIC, 0xEA;
    lop3.b32 b, b, 0x000F000F, MAGIC, 0xEA;
    lop3.b32 c, c, 0x000F000F, MAGIC, 0xEA;
    mov.b32 {$2, $3}, a;
    mov.b32 {$4, $5}, b;
    mov.b32 {$6, $7}, c;
    lop3.b32 a, $8, 0x000F000F, MAGIC, 0xEA;
    mov.b32 {$0, $1}, a;
}
"""
_BFLOAT16 = tl.constexpr(_UNPACK.replace("MAGIC", "0x43004300"))
_FLOAT16 = tl.constexpr(_UNPACK.replace("MAGIC", "0x64006400"))
_REGISTERS = tl.constexpr("=h," * 8 + "r")


@triton.jit
def _nibble(words, INDEX: tl.constexpr, DTYPE: tl.constexpr):
    return (((words >> (4 * INDEX)) & 15) + (128 if DTYPE == tl.bfloat16 else 1024)).to(DTYPE)


@triton.jit
def _eight(words, DTYPE: tl.constexpr, ASM: tl.constexpr):
    """The codes of each word plus 128 or 1024, by `2p + e`."""
    if not ASM:
        return (
            _nibble(words, 0, DTYPE), _nibble(words, 4, DTYPE), _nibble(words, 1, DTYPE), _nibble(words, 5, DTYPE),
            _nibble(words, 2, DTYPE), _nibble(words, 6, DTYPE), _nibble(words, 3, DTYPE), _nibble(words, 7, DTYPE),
        )  # fmt: skip
    elif DTYPE == tl.bfloat16:
        return tl.inline_asm_elementwise(
            _BFLOAT16,
            _REGISTERS,
            [words],
            (tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16),
            is_pure=True,
            pack=1,
        )
    else:
        return tl.inline_asm_elementwise(
            _FLOAT16,
            _REGISTERS,
            [words],
            (tl.float16, tl.float16, tl.float16, tl.float16, tl.float16, tl.float16, tl.float16, tl.float16),
            is_pure=True,
            pack=1,
        )


@triton.jit
def _unpack(words, DTYPE: tl.constexpr, ASM: tl.constexpr):
    """The first and the second half of the columns of a block [BN, 16, p % 2, e], plus 128 or 1024."""
    a, b, c, d, e, f, g, h = _eight(words, DTYPE, ASM)
    low = tl.permute(tl.join(tl.join(a, b), tl.join(c, d)), (0, 1, 3, 2))
    return low, tl.permute(tl.join(tl.join(e, f), tl.join(g, h)), (0, 1, 3, 2))


@triton.jit
def _grid_of(ptr, rows, first, N, GROUP: tl.constexpr):
    """A value for each row [BN], or for each word [BN, 16] where groups are smaller than a half."""
    if GROUP >= 64:
        return tl.load(ptr + (first // GROUP) * N + rows)
    else:
        group = (first + tl.arange(0, 16) % 4 * 16) // GROUP
        return tl.load(ptr + group[None, :] * N + rows[:, None])


@triton.jit
def _grids_of(ptr, rows, first, N, GROUP: tl.constexpr):
    """The same for both halves of a block."""
    low = _grid_of(ptr, rows, first, N, GROUP)
    return low, low if GROUP >= 128 else _grid_of(ptr, rows, first + 64, N, GROUP)


@triton.jit
def _by_column(values):
    """[BN, 1, 1, 1] or [BN, 16, 1, 1], as unpacked words are."""
    return values[:, None, None, None] if len(values.shape) == 1 else values[:, :, None, None]


@triton.jit
def _in_order(weight, BN: tl.constexpr, WARPS: tl.constexpr):
    """[BN, 64] in the order of columns; rows, which are read 8 by 8 warp by warp, in that of the tile."""
    repeats: tl.constexpr = BN // (16 * WARPS)
    weight = tl.reshape(weight, [repeats, 2, WARPS, 8, 4, 4, 4])
    weight = tl.reshape(tl.permute(weight, (0, 2, 1, 3, 5, 4, 6)), [BN, 4, 4, 2, 2])
    return tl.reshape(tl.permute(weight, (0, 1, 3, 2, 4)), [BN, 64])


@triton.jit
def _hold(weight):
    """Keep registers until here: a product that is under way may still read them.

    The product before the last wait reads its first operand from registers whenever it comes to it. Triton 3.6 and its
    ptxas 12.8 do not know that across iterations: registers were given away 30 instructions after the product began.
    """
    tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [weight], weight.dtype, is_pure=False, pack=2)


@triton.jit
def _finished(acc):
    """The sums once the product is done; ptxas would otherwise wait after each of its instructions."""
    return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [acc], tl.float32, is_pure=False, pack=1)


@triton.jit(do_not_specialize=["M"])
def _matrix(
    x_ptr, w_ptr, s_ptr, z_ptr, b_ptr, out_ptr, parts_ptr, counts_ptr, M, N, K: tl.constexpr, GROUP: tl.constexpr,
    HAS_BIAS: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr, SPLIT: tl.constexpr, LATE: tl.constexpr,
    MIDDLE: tl.constexpr, WARPS: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """A tile of BN outputs for BM rows; the weight is the first operand, which tensor cores read from registers.

    With SPLIT programs for a tile, each adds up its share of the columns; the last to end adds the shares in order.
    LATE scales the sums of a block in float32 instead of the weights.
    """
    tile = tl.program_id(0)
    share = tl.program_id(2)
    row = tl.arange(0, BN)
    outputs = tile * BN + row
    valid = outputs < N
    # the row of the tile that each row read from memory becomes; see _in_order
    read = row // (16 * WARPS) * (16 * WARPS) + row // 8 % WARPS * 16 + row // (8 * WARPS) % 2 * 8 + row % 8
    rows = tl.minimum(tile * BN + read, N - 1)
    columns = tl.program_id(1) * BM + tl.arange(0, BM)
    wanted = columns < M
    starts = w_ptr + rows.to(tl.int64)[:, None] * (K // 8) + tl.arange(0, 16)[None, :]
    sources = x_ptr + tl.minimum(columns, M - 1).to(tl.int64)[None, :] * K + tl.arange(0, 64)[:, None]
    dtype = x_ptr.dtype.element_ty
    acc = tl.zeros([BN, BM], dtype=tl.float32)
    held = tl.zeros([BN, 64], dtype=dtype)
    blocks: tl.constexpr = K // 128
    per_share: tl.constexpr = (blocks + SPLIT - 1) // SPLIT
    begin = share * per_share
    end = min(begin + per_share, blocks)
    # Scales and zeros are too narrow for asynchronous copies: those of a block are loaded during the one before.
    which = tl.minimum(outputs, N - 1) if LATE else rows
    scale0, scale1 = _grids_of(s_ptr, which, begin * 128, N, GROUP)
    if MIDDLE == 0:
        zero0, zero1 = _grids_of(z_ptr, rows, begin * 128, N, GROUP)
    for block in range(begin, end):
        first = block * 128
        following = min(first + 128, K - 128)
        next_scale0, next_scale1 = _grids_of(s_ptr, which, following, N, GROUP)
        low, high = _unpack(tl.load(starts + block * 16), dtype, ASM)
        x0 = tl.load(sources + first)
        x1 = tl.load(sources + first + 64)
        middle0 = tl.zeros([1, 1, 1, 1], dtype=dtype) + MIDDLE
        middle1 = middle0
        if MIDDLE == 0:
            next_zero0, next_zero1 = _grids_of(z_ptr, rows, following, N, GROUP)
            middle0 = _by_column(zero0)
            middle1 = _by_column(zero1)
        if LATE:
            part = tl.dot(_in_order(low - middle0, BN, WARPS), x0)
            acc += tl.dot(_in_order(high - middle1, BN, WARPS), x1, part) * scale0.to(tl.float32)[:, None]
        else:
            acc = tl.dot(_in_order((low - middle0) * _by_column(scale0).to(dtype), BN, WARPS), x0, acc)
            if ASM and SPLIT == 1:
                _hold(held)
            held = _in_order((high - middle1) * _by_column(scale1).to(dtype), BN, WARPS)
            acc = tl.dot(held, x1, acc)
            if ASM and SPLIT > 1:
                acc = _finished(acc)
        scale0 = next_scale0
        scale1 = next_scale1
        if MIDDLE == 0:
            zero0 = next_zero0
            zero1 = next_zero1
    place = columns.to(tl.int64)[None, :] * N + outputs[:, None]
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
                total += tl.load(b_ptr + outputs, mask=valid, other=0.0).to(tl.float32)[:, None]
            tl.store(out_ptr + place, total.to(dtype), mask=inner)
            tl.store(count, 0)
    else:
        if HAS_BIAS:
            acc += tl.load(b_ptr + outputs, mask=valid, other=0.0).to(tl.float32)[:, None]
        tl.store(out_ptr + place, acc.to(dtype), mask=inner)


@triton.jit
def _spread(
    w_ptr, s_ptr, z_ptr, out_ptr, N, K: tl.constexpr, GROUP: tl.constexpr, BN: tl.constexpr, MIDDLE: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Dequantize BN rows of one block of columns."""
    outputs = tl.program_id(0) * BN + tl.arange(0, BN)
    rows = tl.minimum(outputs, N - 1)
    first = tl.program_id(1) * 128
    dtype = out_ptr.dtype.element_ty
    words = tl.load(w_ptr + rows.to(tl.int64)[:, None] * (K // 8) + first // 8 + tl.arange(0, 16)[None, :])
    low, high = _unpack(words, dtype, ASM)
    place = out_ptr + outputs.to(tl.int64)[:, None] * K + first + tl.arange(0, 64)[None, :]
    for half in tl.static_range(2):
        zero = tl.zeros([1, 1, 1, 1], dtype=dtype) + MIDDLE
        if MIDDLE == 0:
            zero = _by_column(_grid_of(z_ptr, rows, first + 64 * half, N, GROUP))
        scale = _by_column(_grid_of(s_ptr, rows, first + 64 * half, N, GROUP))
        weight = tl.reshape(((low if half == 0 else high) - zero) * scale, [BN, 4, 4, 2, 2])
        weight = tl.reshape(tl.permute(weight, (0, 2, 3, 1, 4)), [BN, 64])
        tl.store(place + 64 * half, weight, mask=(outputs < N)[:, None])


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
        x, weight.view(torch.int32), scales, x if zeros is None else zeros, x if bias is None else bias, out, parts,
        counts, count, outputs, K=inputs, GROUP=group_size, HAS_BIAS=bias is not None, BN=rows, BM=columns, SPLIT=split,
        LATE=late and group_size >= BLOCK, MIDDLE=_middle(x.dtype, zeros), WARPS=warps, ASM=asm,
        num_warps=warps, num_stages=stages,
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
        weight.view(torch.int32), scales, scales if zeros is None else zeros, out, outputs, K=inputs,
        GROUP=group_size, BN=32, MIDDLE=_middle(dtype, zeros), ASM=asm, num_warps=4,
    )  # fmt: skip
    return out


def _middle(dtype: torch.dtype, zeros: Tensor | None) -> float:
    """The zero of symmetric weights as the kernels subtract it; 0 where zeros are read."""
    return MAGIC[dtype] + 8 if zeros is None else 0.0
