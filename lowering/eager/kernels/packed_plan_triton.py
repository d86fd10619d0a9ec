# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
"""The Triton kernels of `packed_plan` and `unpack_rows`.

The plan is made by one that counts the tokens of each row and one that writes each row's part.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _chosen(keep, row, cols, length, FIRST: tl.constexpr):
    """(real, chosen) of one row, 0 or 1 each."""
    real = (tl.load(keep + row.to(tl.int64) * length + cols, mask=cols < length, other=0) != 0).to(tl.int32)
    chosen = real
    if FIRST:
        chosen = tl.where((cols == 0) | ((tl.sum(real, 0) == 0) & (cols < length)), 1, real)
    return real, chosen


@triton.jit
def _count(keep, counts, rows, length, BLOCK: tl.constexpr, FIRST: tl.constexpr):
    row = tl.program_id(0)
    real, chosen = _chosen(keep, row, tl.arange(0, BLOCK), length, FIRST)
    tl.store(counts + row, tl.sum(chosen, 0))
    tl.store(counts + rows + row, tl.sum(real, 0))


@triton.jit
def _write(
    keep, counts, tokens, offsets, keys, key_offsets, sources, rows, length, size,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    before = tl.arange(0, ROWS)
    base = tl.sum(tl.load(counts + before, mask=before < row, other=0), 0)
    key_base = tl.sum(tl.load(counts + rows + before, mask=before < row, other=0), 0)
    real, chosen = _chosen(keep, row, cols, length, FIRST)
    spot = base + tl.cumsum(chosen, 0) - 1
    position = row.to(tl.int64) * length + cols
    inside = (chosen != 0) & (spot < size)
    tl.store(tokens + spot, position, mask=inside)
    tl.store(sources + position, tl.where(inside & (real != 0), spot, -1).to(tl.int64), mask=cols < length)
    tl.store(keys + key_base + tl.cumsum(real, 0) - 1, spot.to(tl.int64), mask=(real != 0) & (spot < size))
    tl.store(offsets + row + 1, base + tl.sum(chosen, 0))
    tl.store(key_offsets + row + 1, key_base + tl.sum(real, 0))


def launch(keep: Tensor, size: int, first: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run the kernels; arguments and results are those of `packed_plan`."""
    keep = keep.contiguous().view(torch.uint8)
    rows, length = keep.shape
    counts = torch.empty(2, rows, dtype=torch.int32, device=keep.device)
    offsets, key_offsets = torch.zeros(2, rows + 1, dtype=torch.int32, device=keep.device)
    tokens, keys = torch.zeros(2, size, dtype=torch.int64, device=keep.device)
    sources = torch.empty(rows * length, dtype=torch.int64, device=keep.device)
    block = triton.next_power_of_2(length)
    _count[(rows,)](keep, counts, rows, length, BLOCK=block, FIRST=first)
    _write[(rows,)](
        keep, counts, tokens, offsets, keys, key_offsets, sources, rows, length, size,
        BLOCK=block, ROWS=triton.next_power_of_2(rows), FIRST=first,
    )  # fmt: skip
    return tokens, offsets, keys, key_offsets, sources


@triton.jit
def _gather(x, sources, out, count, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, BLOCK)
    source = tl.load(sources + rows, mask=rows < count, other=-1)
    inside = (cols < WIDTH)[None, :]
    values = tl.load(x + source[:, None] * WIDTH + cols[None, :], mask=(source >= 0)[:, None] & inside, other=0.0)
    tl.store(out + rows[:, None] * WIDTH + cols[None, :], values, mask=(rows < count)[:, None] & inside)


def gather(x: Tensor, sources: Tensor) -> Tensor:
    """[tokens, ...] -> [positions, ...]: the rows that `sources` [positions], int64, names, zeros where it is -1."""
    x = x.contiguous()
    count, width = sources.numel(), x.stride(0)
    out = x.new_empty(count, *x.shape[1:])
    block = triton.next_power_of_2(width)
    rows = max(4096 // block, 1)
    _gather[(triton.cdiv(count, rows),)](x, sources, out, count, WIDTH=width, BLOCK=block, ROWS=rows)
    return out
