"""Packed weights as our Triton kernels read them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphwright.ir.packed import PackedWeight
from graphwright.lowering.eager.packed.layout import int4

BLOCK = 128


@dataclass(frozen=True, eq=False)
class Blocks:
    """A weight as the Triton kernels read it; see `packed_linear_triton`.

    Args:
        codes: [N, K / 2], uint8.
        scales: [G, N], in the dtype of the product.
        zeros: [G, N], plus 128 or 1024; None for 8.
        group_size: 32, 64, 128 or 256.
        order: [K], the column of the input at each place; None where columns stay.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    group_size: int
    order: Tensor | None


def blocks_of(codes: Tensor) -> Tensor:
    """[N, K / 2]: the codes in the order of `packed_linear_triton`."""
    nibbles = codes.reshape(len(codes), -1, 2, 4, 2, 4, 2).permute(0, 1, 5, 3, 6, 2, 4).reshape(len(codes), -1, 2)
    return (nibbles[:, :, 0] | nibbles[:, :, 1] << 4).contiguous()


def blocks(packed: PackedWeight, dtype: torch.dtype) -> Blocks:
    """A packed weight as the Triton kernels read it; `int4_size` must not be None."""
    from graphwright.lowering.eager.kernels.packed_linear_triton import MAGIC

    weight = int4(packed)
    zeros = None
    if packed.zeros is not None or packed.bits != 4:
        middle = 8 - weight.offsets / weight.scales.where(weight.scales != 0, 1)
        zeros = (middle.round() + MAGIC[dtype]).to(dtype).t().contiguous()
    scales = weight.scales.to(dtype).t().contiguous()
    return Blocks(blocks_of(weight.codes), scales, zeros, weight.group_size, weight.order)
