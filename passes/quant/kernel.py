# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
"""A sweep's block of inputs on a GPU, in one kernel: each program keeps the targets of some outputs in registers."""

from __future__ import annotations

import triton
import triton.language as tl

from graphwright.passes.quant.sweep import BLOCK, Sweep

_OUTPUTS = 32


@triton.jit
def _sweep(
    targets, factor, scales, zeros, groups, codes, values, steps, start, rows: tl.constexpr, inputs, outputs, top,
    descent: tl.constexpr, block: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    """Choose the codes of inputs `start .. start + rows` for `width` outputs."""
    inner = tl.arange(0, block)
    columns = tl.program_id(0) * width + tl.arange(0, width)
    inside = columns < outputs
    tile = (start + inner)[:, None] * outputs + columns[None, :]
    target = tl.load(targets + tile, mask=(inner < rows)[:, None] & inside[None, :], other=0.0)
    for i in range(rows):
        group = tl.load(groups + start + i)
        scale = tl.load(scales + group * outputs + columns, mask=inside, other=1.0)
        zero = tl.load(zeros + group * outputs + columns, mask=inside, other=0.0)
        wanted = tl.sum(tl.where((inner == i)[:, None], target, 0.0), 0)
        code = tl.floor(wanted / scale + zero + 0.5)
        code = tl.minimum(tl.maximum(code, 0.0), top)
        value = (code - zero) * scale
        row = (start + i) * outputs + columns
        step = wanted - value
        if descent:
            step = value - tl.load(values + row, mask=inside, other=0.0)
        tl.store(codes + row, code, mask=inside)
        tl.store(values + row, value, mask=inside)
        tl.store(steps + row, step, mask=inside)
        later = (inner > i) & (inner < rows)
        share = tl.load(factor + (start + i) * inputs + start + inner, mask=later, other=0.0)
        target -= share[:, None] * step[None, :]


def sweep_block(sweep: Sweep, start: int, end: int) -> None:
    """Run the inputs `start .. end`, at most 128, of a sweep; the targets of later inputs are left to the caller."""
    inputs, outputs = sweep.targets.shape
    grid = (triton.cdiv(outputs, _OUTPUTS),)
    tensors = (sweep.targets, sweep.factor, sweep.grid.scale, sweep.grid.zero, sweep.group)
    written = (sweep.codes, sweep.values, sweep.steps)
    sizes = (start, end - start, inputs, outputs, float(sweep.grid.top))
    _sweep[grid](*tensors, *written, *sizes, sweep.descent, BLOCK, _OUTPUTS, num_warps=4)
