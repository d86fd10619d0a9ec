"""Factors of a Hessian: what GPTQ's sweep, coordinate descent, and a moved target need of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from graphwright.ir.errors import PassError
from graphwright.passes.quant.products import multiplies_bfloat16

_TRIES = 8
_SMALL = 256  # inputs whose factor is inverted at once


@dataclass(frozen=True)
class Factors:
    """A damped Hessian in the order of the sweep, with what is derived from it.

    Args:
        hessian: `[inputs, inputs]`.
        sweep: `S`, upper triangular with diagonal 1: the rows of the inverse's Cholesky factor, scaled.
        pivots: `p` `[inputs]`, so that the inverse is `S^T diag(p) S`.
        damping: Part of the mean diagonal that was added.
        ridge: What was added to the diagonal.
    """

    hessian: Tensor
    sweep: Tensor
    pivots: Tensor
    damping: float
    ridge: float

    def solve(self, right: Tensor) -> Tensor:
        """`hessian^-1 @ right`."""
        return self.sweep.T @ (self.sweep @ right).mul_(self.pivots[:, None])

    def coarse(self, change: Tensor) -> Tensor:
        """`hessian @ change` where an error of 2^-9 does no harm: in bfloat16, if the device is fast at that."""
        return (self._coarse @ change.to(self._coarse.dtype)).to(change.dtype)

    @cached_property
    def _coarse(self) -> Tensor:
        return self.hessian.bfloat16() if multiplies_bfloat16(self.hessian.device) else self.hessian

    @cached_property
    def descent(self) -> Tensor:
        """`hessian[i, j] / hessian[j, j]`: what a change of input `i` does to the best value of input `j`."""
        return self.hessian / self.hessian.diagonal()


def factorize(hessian: Tensor, damping: float) -> Factors:
    """Damp a Hessian, in place, and factorize it; the damping doubles until that works.

    Raises:
        PassError: It has values that are not finite.
    """
    mean = float(hessian.diagonal().mean())
    if not torch.isfinite(torch.tensor(mean)):
        raise PassError("the inputs of a linear are not finite", remedies=["calibrate in float32"])
    added = 0.0
    for _ in range(_TRIES):
        hessian.diagonal().add_(damping * mean - added)
        added = damping * mean
        lower, failed = torch.linalg.cholesky_ex(hessian.flip(0, 1))
        if not bool(failed):
            root = lower.flip(0, 1).contiguous()
            del lower
            invert_upper(root)
            pivots = root.diagonal().square()
            root /= root.diagonal()[:, None].clone()
            return Factors(hessian, root, pivots, damping, added)
        damping *= 2
    raise PassError("the Hessian of a linear cannot be factorized", why=f"even with a damping of {damping / 2:g}")


def invert_upper(matrix: Tensor) -> None:
    """Invert an upper triangular matrix in place, by halves: nearly all work is matrix products."""
    if len(matrix) <= _SMALL:
        identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        matrix.copy_(torch.linalg.solve_triangular(matrix, identity, upper=True))
        return
    half = len(matrix) // 2
    first, corner, last = matrix[:half, :half], matrix[:half, half:], matrix[half:, half:]
    invert_upper(first)
    invert_upper(last)
    corner.copy_((first @ (corner @ last)).neg_())
