"""Refit of the scales: with the codes given, the output error is quadratic in the scales of each output."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

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
    width, inputs = options.width(len(codes)), len(codes)
    centred = codes - grid.zero[group]
    if _is_sorted(group, width):
        places = group[::width]
    else:
        places, gather = torch.arange(groups, device=group.device), torch.argsort(group, stable=True)
        missing = groups * width - inputs
        centred, pull = (pad(values[gather], (0, 0, 0, missing)) for values in (centred, pull))
        hessian = pad(hessian[gather][:, gather], (0, missing, 0, missing))
    step = max(1, _SOLVED // (groups * groups + inputs))
    parts = [
        _solve(centred[:, part], hessian, pull[:, part], groups)
        for part in (slice(start, start + step) for start in range(0, outputs, step))
    ]
    scale = torch.empty_like(grid.scale)
    scale[places] = torch.cat(parts).T
    ratio = scale / grid.scale
    kept = torch.where((ratio > 0.25) & (ratio < 4), scale, grid.scale)
    return Grid(options.round_scales(kept).contiguous(), grid.zero, grid.top)


def _is_sorted(group: Tensor, width: int) -> bool:
    """Whether the inputs of each group are next to each other, and all groups are whole."""
    blocks = group.view(-1, width) if len(group) % width == 0 else None
    return blocks is not None and bool((blocks == blocks[:, :1]).all())


def _solve(codes: Tensor, hessian: Tensor, pull: Tensor, groups: int) -> Tensor:
    """Least-squares scales `[outputs, groups]` for centred codes `[inputs, outputs]`, sorted by groups of one size."""
    width, outputs = len(codes) // groups, codes.shape[1]
    system = codes.new_empty(outputs, groups, groups)
    for m in range(groups):
        start = m * width
        products = hessian[start:, start : start + width] @ codes[start : start + width]
        column = products.mul_(codes[start:]).view(groups - m, width, outputs).sum(1).T
        system[:, m, m:] = column
        system[:, m:, m] = column
    diagonal = system.diagonal(dim1=1, dim2=2)
    diagonal += _RIDGE * diagonal.mean(1, keepdim=True).clamp(min=1e-12)
    return torch.linalg.solve(system, (codes * pull).view(groups, width, outputs).sum(1).T)
