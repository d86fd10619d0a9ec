"""The GPTQ solver: codes, scales and zero points of one linear, or of several that read the same input.

The weights are swept once as GPTQ does; then scales are refitted to the codes by least squares and codes are swept
again by coordinate descent, which GPTQ leaves out. All of it minimises `|(W - Q) X|` for the Hessian `H = X X^T`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.coupled import Descent, descend
from graphwright.passes.quant.factors import Factors, factorize
from graphwright.passes.quant.grid import Grid, search_grid
from graphwright.passes.quant.memory import return_freed
from graphwright.passes.quant.options import SCALE_DTYPES, Options
from graphwright.passes.quant.refit import refit_scales
from graphwright.passes.quant.sweep import Sweep

_CPU_ROWS, _GPU_ROWS = 2048, 1 << 16


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
    weights: Sequence[Tensor],
    hessian: Tensor,
    options: Options,
    corrections: Sequence[Tensor | None],
    curvatures: Sequence[Tensor | None] = (),
) -> list[QuantizedLinear]:
    """Quantize the weights of linears that read the same input.

    Args:
        weights: Each `[outputs, inputs]`, any floating dtype.
        hessian: `X^T X` of the inputs that the quantized linears will see, `[inputs, inputs]`.
        options: How.
        corrections: Per weight `E^T X` `[outputs, inputs]`, with `E` what the output should be beyond `X W^T`, or None.
        curvatures: Per weight `[outputs, outputs]`, how errors of outputs act together, or None; nothing for none.

    Raises:
        PassError: The Hessian has values that are not finite.
    """
    problem, sizes = Problem.of(hessian, options), [len(weight) for weight in weights]
    asked = [c if c is not None else w.new_zeros(w.shape) for w, c in zip(weights, corrections, strict=True)]
    correction = torch.cat(asked) if any(c is not None for c in corrections) else None
    weight = torch.cat(list(weights))
    parts = [
        problem.solve(weight[rows], None if correction is None else correction[rows], curvature)
        for rows, curvature in _pieces(sizes, problem.rows, curvatures)
    ]
    return [problem.result(part) for part in Solution.joined(parts).split(sizes)]


def _pieces(
    sizes: Sequence[int], rows: int, curvatures: Sequence[Tensor | None]
) -> Iterator[tuple[slice, Tensor | None]]:
    """Outputs that are solved at once; where outputs are coupled, those of one linear at most."""
    if not any(curvature is not None for curvature in curvatures):
        yield from ((slice(i, i + rows), None) for i in range(0, sum(sizes), rows))
        return
    start = 0
    for size, curvature in zip(sizes, curvatures, strict=True):
        for part in (slice(i, min(i + rows, size)) for i in range(0, size, rows)):
            yield slice(start + part.start, start + part.stop), None if curvature is None else curvature[part, part]
        start += size


@dataclass(frozen=True)
class Solution:
    """What is found for some outputs, each tensor `[..., outputs]`.

    Args:
        codes: uint8 `[inputs, outputs]`, inputs in their own order.
        scale: `[groups, outputs]`.
        zero: `[groups, outputs]`.
        errors: `[3, outputs]`, squared output errors: of the solution, of rounding, and of leaving everything out.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    errors: Tensor

    @staticmethod
    def joined(parts: Sequence[Solution]) -> Solution:
        """Solutions for all outputs."""
        columns = zip(*((part.codes, part.scale, part.zero, part.errors) for part in parts), strict=True)
        return Solution(*(torch.cat(column, 1) for column in columns))

    def split(self, sizes: Sequence[int]) -> list[Solution]:
        """Solutions for so many outputs each."""
        columns = (tensor.split(list(sizes), 1) for tensor in (self.codes, self.scale, self.zero, self.errors))
        return [Solution(*tensors) for tensors in zip(*columns, strict=True)]


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
        factors = factorize(hessian[order[:, None], order], options.damping)
        return_freed()
        return Problem(factors, order, group, width, options)

    @property
    def rows(self) -> int:
        """Outputs that are solved at once: what stays in the cache of a core on a CPU."""
        return _CPU_ROWS if self.order.device.type == "cpu" else _GPU_ROWS

    def solve(self, weight: Tensor, correction: Tensor | None, curvature: Tensor | None = None) -> Solution:
        """Solve for some outputs."""
        plain = weight.float().T[self.order].contiguous()
        whole = self.factors.coarse(plain)
        target, pull = plain, whole
        if correction is not None:
            asked = correction.float().T[self.order]
            target, pull = plain + self.factors.solve(asked).contiguous(), whole + asked
        grid, codes, values, gradient = _minimise(target, pull, self, curvature)
        difference = plain - values
        missed = plain - grid.dequantize(grid.quantize(plain, self.group), self.group)
        errors = (
            self._energy(difference, whole - pull - gradient),
            self._energy(missed, self.factors.coarse(missed)),
            self._energy(plain, whole),
        )
        codes = codes.to(torch.uint8)[torch.argsort(self.order)]
        return Solution(codes, grid.scale, grid.zero, torch.stack(errors))

    def _energy(self, difference: Tensor, product: Tensor) -> Tensor:
        """`[outputs]`: squared error without what damping adds; `product`: the damped Hessian times the difference."""
        return torch.linalg.vecdot(difference, product - self.factors.ridge * difference, dim=0)

    def result(self, solution: Solution) -> QuantizedLinear:
        """A solution as a linear."""
        options = self.options
        error, rtn, whole = solution.errors.double().sum(1).clamp(min=0).tolist()
        is_scattered = options.order == "act" and self.width < len(self.order)
        return QuantizedLinear(
            codes=solution.codes.T.contiguous(),
            scales=solution.scale.T.to(SCALE_DTYPES[options.scale_dtype]).contiguous(),
            zeros=None if options.symmetric else solution.zero.T.to(torch.uint8).contiguous(),
            group_index=self.group[torch.argsort(self.order)].to(torch.int32) if is_scattered else None,
            bits=options.bits,
            group_size=self.width,
            error=(error / (whole or 1.0)) ** 0.5,
            rtn_error=(rtn / (whole or 1.0)) ** 0.5,
            damping=self.factors.damping,
        )


def _minimise(
    target: Tensor, pull: Tensor, problem: Problem, curvature: Tensor | None
) -> tuple[Grid, Tensor, Tensor, Tensor]:
    """Grid, codes and values that minimise the error towards `target`; all in the order of the sweep.

    `pull` is the Hessian times the target. The last result is the gradient, the Hessian times the values less the pull.
    """
    options, factors, group = problem.options, problem.factors, problem.group
    gather = torch.argsort(group, stable=True)
    diagonal = factors.hessian.diagonal()
    grid = search_grid(target[gather], diagonal[gather], problem.width, options)
    codes, values = torch.empty_like(target), torch.empty_like(target)
    Sweep(target.clone(), factors.sweep, grid, group, codes, values).run()
    gradient = factors.coarse(values - target)
    if curvature is not None:
        state = Descent(grid, codes, values, gradient, pull)
        descend(state, curvature, factors, group, options)
        return state.grid, codes, values, gradient
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
