"""Mixtures of experts in plain operators: every matrix for every row, as which rows a group has is not known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def grouped_product(
    rows: Tensor, matrices: Tensor, offs: Tensor, bias: Tensor | None = None, out_dtype: torch.dtype | None = None
) -> Tensor:
    """Each row times the matrix of its group.

    Args:
        rows: [rows, inputs], sorted by group.
        matrices: [groups, inputs, outputs].
        offs: int32 [groups], where each group of rows ends; rows after the last end are zeros.
        bias: [outputs].
        out_dtype: Type of the result, by default that of the rows.
    """
    places = torch.ones_like(rows[:, :1], dtype=torch.int64).cumsum(0) - 1
    group = (places >= offs.to(torch.int64)).to(torch.int64).sum(1, keepdim=True)
    mine = group == torch.arange(matrices.shape[0], device=rows.device)[:, None, None]
    found = torch.where(mine, torch.matmul(rows, matrices), 0.0).sum(0)
    found = found if bias is None else found + bias
    return found.to(rows.dtype if out_dtype is None else out_dtype)


def counts(values: Tensor, bins: int = 100, low: Any = 0, high: Any = 0) -> Tensor:
    """How many elements lie in each of equal ranges from `low` to `high`; the last one has its end too."""
    data = values.flatten().to(torch.float32)
    place = ((data - low) / (high - low) * bins).floor().clamp(max=bins - 1)
    inside = (data >= low) & (data <= high)
    found = (place[:, None] == torch.arange(bins, device=values.device)) & inside[:, None]
    return found.to(torch.float32).sum(0).to(values.dtype)
