"""Refit of the scales: with the codes given, the output error is quadratic in the scales of each output."""

from __future__ import annotations

import torch
from torch import Tensor

from graphwright.passes.quant.grid import Grid
from graphwright.passes.quant.options import Options

_RIDGE = 1e-6
_SOLVED = 1 << 24  # elements of the systems solved at once


def refit_scales(grid: Grid, codes: Tensor, hessian: Tensor, pull: Tensor, group: Tensor, options: Options) -> Grid:
    """The grid with least-squares scales, rounded to their dtype.

    Args:
        grid: The grid that the codes were chosen for.
        codes: Float `[inputs, outputs]`.
        hessian: `[inputs, inputs]`.
        pull: `hessian @ target`, `[inputs, outputs]`.
        group: Group of each input.
        options: Dtype of the scales.
    """
    groups, outputs = grid.scale.shape
    gather = torch.argsort(group, stable=True)
    width = options.width(len(codes))
    step = max(1, _SOLVED // (groups * groups + len(codes)))
    parts = [
        _solve(codes[:, part] - grid.zero[group][:, part], hessian, pull[:, part], gather, width)
        for part in (slice(start, start + step) for start in range(0, outputs, step))
    ]
    scale = torch.cat(parts).T
    ratio = scale / grid.scale
    kept = torch.where((ratio > 0.25) & (ratio < 4), scale, grid.scale)
    return Grid(options.round_scales(kept).contiguous(), grid.zero, grid.top)


def _solve(codes: Tensor, hessian: Tensor, pull: Tensor, gather: Tensor, width: int) -> Tensor:
    """Least-squares scales `[outputs, groups]` for centred codes `[inputs, outputs]`.

    `gather` sorts the inputs by group, `width` is the size of a group.
    """
    groups = -(-len(codes) // width)

    def by_group(values: Tensor) -> Tensor:
        missing = groups * width - len(values)
        return torch.nn.functional.pad(values[gather], (0, 0, 0, missing)).view(groups, width, -1).sum(1)

    columns = [by_group(codes * (hessian[:, m] @ codes[m])) for m in gather.split(width)]
    system = torch.stack(columns).permute(2, 1, 0)
    ridge = _RIDGE * system.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    system = system + ridge[:, None, None] * torch.eye(groups, device=codes.device)
    return torch.linalg.solve(system, by_group(codes * pull).T)
