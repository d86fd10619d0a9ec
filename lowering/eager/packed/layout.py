"""Packed weights in the layouts of PyTorch's kernels.

Up to 4 bits in whole groups, `W = (code - 8) * scale + offset`; 8 bits with one group for each output,
`W = (code - 128) * scale + offset`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphwright.ir.packed import PackedWeight

GROUP_SIZES = (256, 128, 64, 32)


@dataclass(frozen=True, eq=False)
class Int4:
    """Codes of 4 bits in groups of a size that kernels have.

    Args:
        codes: [N, K], uint8, columns in the order of their groups.
        scales: [N, G], float32.
        offsets: [N, G], float32: what is added to `(code - 8) * scale`.
        group_size: 32, 64, 128 or 256.
        order: [K], the column of the weight at each place; None where columns stay.
    """

    codes: Tensor
    scales: Tensor
    offsets: Tensor
    group_size: int
    order: Tensor | None


def int4_size(inputs: int, bits: int, group_size: int) -> int | None:
    """The group size that kernels are called with, None where they cannot express the weight.

    Codes of 2 and 3 bits are codes of 4 bits as well, and a larger group is several smaller ones.
    """
    if bits > 4 or inputs % min(group_size, inputs):
        return None
    whole = min(group_size, inputs)
    return next((size for size in GROUP_SIZES if whole % size == 0), None)


def int4(packed: PackedWeight) -> Int4:
    """The weight as the kernels read it; `int4_size` must not be None."""
    size = int4_size(packed.inputs, packed.bits, packed.group_size)
    assert size is not None
    codes, order = packed.codes(), None
    if packed.group_index is not None:
        order = packed.group_index.argsort(stable=True)
        codes = codes.index_select(1, order)
    repeats = min(packed.group_size, packed.inputs) // size
    scales = packed.scales.float()
    zeros = 2 ** (packed.bits - 1) if packed.zeros is None else packed.zeros.float()
    offsets = (8 - zeros) * scales
    spread = lambda values: values.repeat_interleave(repeats, 1)  # noqa: E731
    return Int4(codes, spread(scales), spread(offsets), size, order)


@dataclass(frozen=True, eq=False)
class Int8:
    """Codes of 8 bits with one scale for each output.

    Args:
        codes: [N, K], int8.
        scales: [N], float32.
        ones: [N], bfloat16, for the kernel, which would round scales.
        offsets: [N], float32, what is added to `code * scale`; None for zeros.
    """

    codes: Tensor
    scales: Tensor
    ones: Tensor
    offsets: Tensor | None


def is_int8(inputs: int, bits: int, group_size: int) -> bool:
    """Whether `int8` can express a weight."""
    return bits == 8 and group_size >= inputs


def int8(packed: PackedWeight) -> Int8:
    """The weight as the kernel reads it; `is_int8` must hold."""
    scales = packed.scales.float().flatten()
    offsets = None if packed.zeros is None else (128 - packed.zeros.float().flatten()) * scales
    codes = (packed.codes().int() - 128).to(torch.int8)
    return Int8(codes, scales, torch.ones_like(scales, dtype=torch.bfloat16), offsets)


def scales_and_offsets(weight: Int4, dtype: torch.dtype) -> Tensor:
    """[G, N, 2], as PyTorch's kernels take them."""
    return torch.stack([weight.scales.t(), weight.offsets.t()], -1).to(dtype).contiguous()
