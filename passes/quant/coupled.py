"""Descent on codes whose outputs are coupled: errors of outputs that cancel in the predictions cost nothing.

The error of `E` `[inputs, outputs]` is `tr(E^T H E G)` with the Hessian `H` of the inputs and the curvature `G` of the
outputs. Outputs are visited in blocks, far from each other within a block. A block is moved as coordinate descent moves
outputs that are independent, to where the error cannot rise: `c diag(G)` bounds the part of `G` that belongs to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from graphwright.passes.quant.factors import Factors
from graphwright.passes.quant.grid import Grid
from graphwright.passes.quant.options import Options
from graphwright.passes.quant.refit import refit_scales
from graphwright.passes.quant.sweep import Sweep

_BLOCKS, _WIDTH = 64, 16  # so many blocks at least, of so many outputs at most
_DAMPING = 0.3  # of the mean curvature


@dataclass
class Descent:
    """What is improved, in place; `[inputs, outputs]` each.

    Args:
        grid: Scales and zero points.
        codes: Float codes.
        values: What they stand for.
        gradient: The Hessian times the values less `pull`.
        pull: The Hessian times the target.
    """

    grid: Grid
    codes: Tensor
    values: Tensor
    gradient: Tensor
    pull: Tensor


def descend(state: Descent, curvature: Tensor, factors: Factors, group: Tensor, options: Options) -> None:
    """Refit scales and sweep codes, block by block of the outputs, as many rounds as the options say.

    Args:
        state: What is improved.
        curvature: `[outputs, outputs]`, second moments of gradients.
        factors: Of the Hessian.
        group: Group of each input.
        options: Rounds, and sweeps of a round.
    """
    curvature = (curvature / curvature.diagonal().mean().clamp(min=1e-30)).to(state.gradient.dtype)
    curvature.diagonal().add_(_DAMPING)
    blocks = [(block, _bounded(curvature, block)) for block in _blocks(len(curvature), curvature.device)]
    for _ in range(options.rounds):
        for block, share in blocks:
            _refit(state, block, share, factors, group, options)
        for _ in range(options.sweeps):
            for block, share in blocks:
                _sweep(state, block, share, factors, group)


def _blocks(outputs: int, device: torch.device) -> Iterator[Tensor]:
    count = min(max(_BLOCKS, -(-outputs // _WIDTH)), outputs)
    yield from (torch.arange(start, outputs, count, device=device) for start in range(count))


def _bounded(curvature: Tensor, block: Tensor) -> Tensor:
    """`[outputs, block]`: the curvature's columns of a block by the diagonal that bounds its part of it."""
    diagonal = curvature.diagonal()[block]
    root = diagonal.rsqrt()
    bound = torch.linalg.eigvalsh(curvature[block[:, None], block] * root * root[:, None])[-1]
    return curvature[:, block] / (bound * diagonal)


def _refit(state: Descent, block: Tensor, share: Tensor, factors: Factors, group: Tensor, options: Options) -> None:
    grid = Grid(state.grid.scale[:, block], state.grid.zero[:, block], state.grid.top)
    codes = state.codes[:, block]
    pull = state.pull[:, block] + state.gradient[:, block] - state.gradient @ share
    grid = refit_scales(grid, codes, factors.hessian, pull, group, options)
    state.grid.scale[:, block] = grid.scale
    _put(state, block, grid.dequantize(codes, group), factors)


def _sweep(state: Descent, block: Tensor, share: Tensor, factors: Factors, group: Tensor) -> None:
    grid = Grid(state.grid.scale[:, block], state.grid.zero[:, block], state.grid.top)
    codes, values = state.codes[:, block], state.values[:, block]
    targets = values - (state.gradient @ share) / factors.hessian.diagonal()[:, None]
    Sweep(targets, factors.descent, grid, group, codes, values, descent=True).run()
    state.codes[:, block] = codes
    _put(state, block, values, factors)


def _put(state: Descent, block: Tensor, values: Tensor, factors: Factors) -> None:
    state.gradient[:, block] += factors.coarse(values - state.values[:, block])
    state.values[:, block] = values
