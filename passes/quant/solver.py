"""The GPTQ solver: codes, scales and zero points of one linear, or of several that read the same input.

The weights are swept once as GPTQ does; then scales are refitted to the codes by least squares and codes are swept
again by coordinate descent, which GPTQ leaves out. All of it minimises `|(W - Q) X|` for the Hessian `H = X X^T`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from graphwright.ir.errors import PassError
from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.grid import Grid, search_grid
from graphwright.passes.quant.options import SCALE_DTYPES, Options
from graphwright.passes.quant.refit import refit_scales
from graphwright.passes.quant.sweep import Sweep

_TRIES = 8
_CPU_ROWS, _GPU_ROWS = 2048, 1 << 16


@dataclass(frozen=True)
class Factors:
    """A damped Hessian in the order of the sweep, with what is derived from it.

    Args:
        hessian: `[inputs, inputs]`.
        root: Upper triangular, `root @ root.T == hessian`.
        sweep: Upper triangular with diagonal 1: the rows of the inverse's Cholesky factor, scaled.
        damping: Part of the mean diagonal that was added.
        ridge: What was added to the diagonal.
    """

    hessian: Tensor
    root: Tensor
    sweep: Tensor
    damping: float
    ridge: float

    def solve(self, right: Tensor) -> Tensor:
        """`hessian^-1 @ right`."""
        half = torch.linalg.solve_triangular(self.root, right, upper=True)
        return torch.linalg.solve_triangular(self.root.T, half, upper=False)

    def coarse(self, change: Tensor) -> Tensor:
        """`hessian @ change` with bfloat16 factors, for changes that are small beside what they are added to."""
        return (self._half @ change.bfloat16()).float()

    @cached_property
    def _half(self) -> Tensor:
        return self.hessian.bfloat16()

    @cached_property
    def descent(self) -> Tensor:
        """`hessian[i, j] / hessian[j, j]`: what a change of input `i` does to the best value of input `j`."""
        return self.hessian / self.hessian.diagonal()


def factorize(hessian: Tensor, damping: float) -> Factors:
    """Damp and factorize a Hessian; the damping doubles until that works.

    Raises:
        PassError: It has values that are not finite.
    """
    mean = hessian.diagonal().mean()
    if not bool(torch.isfinite(mean)):
        raise PassError("the inputs of a linear are not finite", remedies=["calibrate in float32"])
    for _ in range(_TRIES):
        damped = hessian.clone(memory_format=torch.contiguous_format)
        ridge = damping * mean
        damped.diagonal().add_(ridge)
        flipped, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not bool(failed):
            root = flipped.flip(0, 1)
            identity = torch.eye(len(root), dtype=root.dtype, device=root.device)
            inverse = torch.linalg.solve_triangular(root, identity, upper=True)
            return Factors(damped, root, (inverse / inverse.diagonal()[:, None]).contiguous(), damping, float(ridge))
        damping *= 2
    raise PassError("the Hessian of a linear cannot be factorized", why=f"even with a damping of {damping / 2:g}")


def order_of(diagonal: Tensor, width: int, order: str) -> Tensor:
    """The order in which inputs are swept, `[inputs]`."""
    if order == "none":
        return torch.arange(len(diagonal), device=diagonal.device)
    if order in ("act", "static"):
        return torch.argsort(diagonal, descending=True, stable=True)
    group = torch.arange(len(diagonal), device=diagonal.device) // width
    groups = diagonal.new_zeros(int(group[-1]) + 1).scatter_reduce(0, group, diagonal, "amax")
    rank = torch.argsort(torch.argsort(groups, descending=True, stable=True))
    within = torch.argsort(diagonal, descending=True, stable=True)
    return within[torch.argsort(rank[group[within]], stable=True)]


@torch.no_grad()
def solve(weight: Tensor, hessian: Tensor, options: Options, correction: Tensor | None = None) -> QuantizedLinear:
    """Quantize one weight; see `solve_all`."""
    return solve_all([weight], hessian, options, [correction])[0]


@torch.no_grad()
def solve_all(
    weights: Sequence[Tensor], hessian: Tensor, options: Options, corrections: Sequence[Tensor | None]
) -> list[QuantizedLinear]:
    """Quantize the weights of linears that read the same input.

    Args:
        weights: Each `[outputs, inputs]`, any floating dtype.
        hessian: `X^T X` of the inputs that the quantized linears will see, `[inputs, inputs]`.
        options: How.
        corrections: Per weight `E^T X` `[outputs, inputs]`, with `E` what the output should be beyond `X W^T`, or None.

    Raises:
        PassError: The Hessian has values that are not finite.
    """
    problem = Problem.of(hessian, options)
    results = []
    for weight, correction in zip(weights, corrections, strict=True):
        rows = range(0, len(weight), problem.rows)
        parts = [
            problem.solve(
                weight[i : i + problem.rows], None if correction is None else correction[i : i + problem.rows]
            )
            for i in rows
        ]
        results.append(problem.join(parts))
    return results


@dataclass(frozen=True)
class Solution:
    """Codes and values `[inputs, outputs]` in their own order, the grid, and squared output errors.

    Args:
        errors: Of the solution, of plain rounding, and of leaving everything out.
    """

    codes: Tensor
    grid: Grid
    errors: tuple[float, float, float]


@dataclass(frozen=True)
class Problem:
    """What all outputs of linears with one input share.

    Args:
        factors: The damped Hessian and its factors, in the order of the sweep.
        order: Input at each position of the sweep.
        group: Group of each position.
        width: Inputs of a group.
        options: How to solve.
    """

    factors: Factors
    order: Tensor
    group: Tensor
    width: int
    options: Options

    @staticmethod
    def of(hessian: Tensor, options: Options) -> Problem:
        """Order the inputs and factorize."""
        hessian, inputs = hessian.float(), len(hessian)
        hessian.diagonal()[hessian.diagonal() == 0] = 1
        width = options.width(inputs)
        order = order_of(hessian.diagonal(), width, options.order)
        positions = torch.arange(inputs, device=hessian.device)
        group = (positions if options.order == "act" else order) // width
        return Problem(factorize(hessian[order][:, order], options.damping), order, group, width, options)

    @property
    def rows(self) -> int:
        """Outputs that are solved at once: what stays in the cache of a core on a CPU."""
        return _CPU_ROWS if self.order.device.type == "cpu" else _GPU_ROWS

    def solve(self, weight: Tensor, correction: Tensor | None) -> Solution:
        """Solve for some outputs."""
        plain = weight.float().T[self.order].contiguous()
        whole = self.factors.hessian @ plain
        target, pull = plain, whole
        if correction is not None:
            asked = correction.float().T[self.order]
            target, pull = plain + self.factors.solve(asked).contiguous(), whole + asked
        grid, codes, values, gradient = _minimise(target, pull, self)
        difference = plain - values
        missed = plain - grid.dequantize(grid.quantize(plain, self.group), self.group)
        errors = (
            self._energy(difference, whole - pull - gradient),
            self._energy(missed, self.factors.coarse(missed)),
            self._energy(plain, whole),
        )
        return Solution(codes[torch.argsort(self.order)].to(torch.uint8), grid, errors)

    def _energy(self, difference: Tensor, product: Tensor) -> float:
        """Squared output error, without what damping adds; `product` is the damped Hessian times the difference."""
        return float((difference * product).sum() - self.factors.ridge * difference.square().sum())

    def join(self, parts: Sequence[Solution]) -> QuantizedLinear:
        """The outputs solved so far as one linear."""
        options = self.options
        error, rtn, whole = (max(sum(values), 0.0) for values in zip(*(part.errors for part in parts), strict=True))
        zeros = None if options.symmetric else torch.cat([part.grid.zero for part in parts], 1).T.to(torch.uint8)
        is_scattered = options.order == "act" and self.width < len(self.order)
        scales = torch.cat([part.grid.scale for part in parts], 1).T.to(SCALE_DTYPES[options.scale_dtype])
        return QuantizedLinear(
            codes=torch.cat([part.codes for part in parts], 1).T.contiguous(),
            scales=scales.contiguous(),
            zeros=None if zeros is None else zeros.contiguous(),
            group_index=self.group[torch.argsort(self.order)].to(torch.int32) if is_scattered else None,
            bits=options.bits,
            group_size=self.width,
            error=(error / (whole or 1.0)) ** 0.5,
            rtn_error=(rtn / (whole or 1.0)) ** 0.5,
            damping=self.factors.damping,
        )


def _minimise(target: Tensor, pull: Tensor, problem: Problem) -> tuple[Grid, Tensor, Tensor, Tensor]:
    """Grid, codes and values that minimise the error towards `target`; all in the order of the sweep.

    `pull` is the Hessian times the target. The last result is the gradient, the Hessian times the values less the pull.
    """
    options, factors, group = problem.options, problem.factors, problem.group
    gather = torch.argsort(group, stable=True)
    diagonal = factors.hessian.diagonal()
    grid = search_grid(target[gather], diagonal[gather], problem.width, options)
    codes, values = torch.empty_like(target), torch.empty_like(target)
    Sweep(target.clone(), factors.sweep, grid, group, codes, values).run()
    gradient = factors.hessian @ values - pull
    for _ in range(options.rounds):
        grid = refit_scales(grid, codes, factors.hessian, pull, group, options)
        _move(values, grid.dequantize(codes, group), gradient, factors)
        for _ in range(options.sweeps):
            earlier = values.clone()
            targets = values - gradient / diagonal[:, None]
            Sweep(targets, factors.descent, grid, group, codes, values, descent=True).run()
            gradient += factors.coarse(values - earlier)
    return grid, codes, values, gradient


def _move(values: Tensor, new: Tensor, gradient: Tensor, factors: Factors) -> None:
    """Put new values in the place of others, and the gradient with them."""
    gradient += factors.coarse(new - values)
    values.copy_(new)
