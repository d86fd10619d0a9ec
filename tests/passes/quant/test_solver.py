"""The solver: what it minimises, its formats, and its parts against plain definitions."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch

from graphwright.ir.errors import PassError, PipelineError
from graphwright.passes.quant.factors import factorize, invert_upper
from graphwright.passes.quant.grid import Grid, search_grid
from graphwright.passes.quant.options import Options, options_for
from graphwright.passes.quant.refit import refit_scales
from graphwright.passes.quant.rtn import round_to_nearest
from graphwright.passes.quant.solver import order_of, solve
from graphwright.passes.quant.sweep import Sweep


@pytest.fixture(scope="module")
def problem() -> tuple[torch.Tensor, torch.Tensor]:
    """A weight [40, 72] and the Hessian of correlated inputs."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(600, 72, generator=generator) @ torch.randn(72, 72, generator=generator)
    return torch.randn(40, 72, generator=generator), inputs.T @ inputs


def output_error(weight, quantized, hessian):
    difference = weight - quantized.dequantize()
    return float(((difference @ hessian) * difference).sum() / ((weight @ hessian) * weight).sum()) ** 0.5


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [0, 16, 32])
def test_codes_keep_outputs_better_than_rounding(problem, bits, symmetric, group_size):
    weight, hessian = problem
    options = Options(bits=bits, symmetric=symmetric, group_size=group_size, damping=0.01)
    found, rounded = solve(weight, hessian, options), round_to_nearest(weight, options, hessian.diagonal())
    assert output_error(weight, found, hessian) < 0.9 * output_error(weight, rounded, hessian)
    assert found.codes.dtype == torch.uint8 and int(found.codes.max()) < 2**bits
    assert found.scales.shape == (40, -(-72 // (group_size or 72))) and found.scales.dtype == torch.float16
    assert (found.zeros is None) == symmetric


@pytest.mark.parametrize("order", ["none", "act", "static", "group"])
def test_orders_and_group_index(problem, order):
    weight, hessian = problem
    found = solve(weight, hessian, Options(order=order, group_size=16))
    assert output_error(weight, found, hessian) == pytest.approx(found.error, rel=1e-3)
    scattered = found.group_index is not None
    assert scattered == (order == "act")
    if scattered:
        assert sorted(found.group_index.tolist()) == [k // 16 for k in range(72)]


def test_group_order_keeps_groups_together():
    diagonal = torch.rand(70, generator=torch.Generator().manual_seed(1))
    diagonal[[3, 20]] = 2.0  # two groups with the same largest value
    order = order_of(diagonal, 16, "group")
    groups = (order // 16).tolist()
    assert sorted(order.tolist()) == list(range(70))
    assert sum(a != b for a, b in pairwise(groups)) == 4  # five groups, each in one piece
    for group in set(groups):
        values = diagonal[order[torch.tensor(groups) == group]]
        assert bool((values[:-1] >= values[1:]).all())


def test_sweep_is_the_textbook_algorithm(problem):
    """Column by column with the inverse's Cholesky factor, in float64."""
    weight, hessian = (tensor.double() for tensor in problem)
    factors = factorize(hessian.clone(), 0.05)
    group = torch.zeros(72, dtype=torch.long)
    grid = Grid(torch.full((1, 40), 0.4, dtype=torch.float64), torch.full((1, 40), 8.0, dtype=torch.float64), 15)
    targets = weight.T.contiguous()
    codes, values = torch.empty_like(targets), torch.empty_like(targets)
    Sweep(targets.clone(), factors.sweep, grid, group, codes, values).run()
    upper = torch.linalg.cholesky(torch.linalg.inv(factors.hessian), upper=True)
    left = weight.clone()
    for i in range(72):
        value = grid.dequantize(grid.quantize(left[:, i], group[:1]), group[:1])[0]
        assert torch.equal(value, values[i])
        left[:, i:] -= torch.outer((left[:, i] - value) / upper[i, i], upper[i, i:])


def test_descent_never_makes_it_worse_and_ends_in_a_minimum(problem):
    weight, hessian = (tensor.double() for tensor in problem)
    factors, group, target = factorize(hessian.clone(), 0.05), torch.zeros(72, dtype=torch.long), weight.T.contiguous()
    grid = Grid(torch.full((1, 40), 0.4, dtype=torch.float64), torch.full((1, 40), 8.0, dtype=torch.float64), 15)
    codes = grid.quantize(target, group)
    values = grid.dequantize(codes, group)
    energy = lambda: ((values - target) * (factors.hessian @ (values - target))).sum(0)  # noqa: E731
    last = energy()
    for _ in range(30):
        targets = values - factors.hessian @ (values - target) / factors.hessian.diagonal()[:, None]
        Sweep(targets, factors.descent, grid, group, codes, values, descent=True).run()
        assert bool((energy() <= last * (1 + 1e-12)).all())
        last = energy()
    moved = codes.clone()
    moved[3] = (moved[3] + 1).clamp(max=15)
    values = grid.dequantize(moved, group)
    assert bool((energy() >= last * (1 - 1e-12)).all())


def test_refitted_scales_are_least_squares(problem):
    weight, hessian = problem
    options, group = Options(group_size=16, scale_dtype="float32"), torch.arange(72) // 16
    target = weight.T.contiguous()
    grid = search_grid(target, hessian.diagonal(), 16, options)
    codes = grid.quantize(target, group)
    fitted = refit_scales(grid, codes, hessian, hessian @ target, group, options)
    root = torch.linalg.cholesky(hessian.double(), upper=True)
    row = (codes[:, 5] - grid.zero[group][:, 5]).double()
    columns = root @ torch.nn.functional.one_hot(group).double().mul(row[:, None])
    wanted = torch.linalg.lstsq(columns, root @ target[:, 5].double()).solution
    torch.testing.assert_close(fitted.scale[:, 5].double(), wanted, rtol=1e-3, atol=1e-5)


def test_correction_moves_the_target(problem):
    """With `E = X D^T` the best weight is `W + D`."""
    weight, hessian = problem
    extra = 0.3 * torch.randn(40, 72, generator=torch.Generator().manual_seed(2))
    options = Options(bits=8, damping=1e-6)
    found = solve(weight, hessian, options, extra @ hessian)
    assert output_error(weight + extra, found, hessian) < 0.02 < output_error(weight, found, hessian)


def test_scales_are_rounded_before_codes_are_chosen(problem):
    weight, hessian = problem
    found = solve(weight, hessian, Options(scale_dtype="bfloat16", rounds=2))
    assert found.scales.dtype == torch.bfloat16
    assert output_error(weight, found, hessian) == pytest.approx(found.error, rel=1e-3)


def test_factors_are_those_of_the_inverse(problem):
    hessian = problem[1].double()
    factors = factorize(hessian.clone(), 0.05)
    damped = hessian + 0.05 * hessian.diagonal().mean() * torch.eye(72, dtype=torch.float64)
    torch.testing.assert_close(factors.hessian, damped)
    right = torch.randn(72, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(factors.solve(right), torch.linalg.solve(damped, right))


@pytest.mark.parametrize("size", [1, 256, 700])
def test_triangles_are_inverted_by_halves(size):
    matrix = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).triu() / size
    matrix.diagonal().add_(1)
    inverse = matrix.clone()
    invert_upper(inverse)
    torch.testing.assert_close(inverse @ matrix, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-10)


def test_damping_is_raised_until_the_hessian_can_be_factorized():
    column = torch.ones(32, 1) * 1e4
    hessian = column @ column.T - 1e6 * torch.eye(32)
    assert factorize(hessian.clone(), 1e-4).damping > 1e-4
    with pytest.raises(PassError, match="not finite"):
        factorize(torch.full((4, 4), float("nan")), 0.1)


def test_dead_inputs_and_zero_weights():
    hessian = torch.diag(torch.tensor([1.0, 0.0, 2.0, 0.0]))
    found = solve(torch.zeros(3, 4), hessian, Options(group_size=2))
    assert torch.equal(found.dequantize(), torch.zeros(3, 4))


def test_overrides():
    default = Options()
    overrides = {"*.mlp.*": {"bits": 3}, "*.down_proj": None, "*.2.mlp.down_proj": {"bits": 8, "symmetric": False}}
    assert options_for("layers.0.self_attn.q_proj", default, overrides) == default
    assert options_for("layers.0.mlp.up_proj", default, overrides) == dataclasses.replace(default, bits=3)
    assert options_for("layers.0.mlp.down_proj", default, overrides) is None
    assert options_for("layers.2.mlp.down_proj", default, overrides).bits == 8
    with pytest.raises(PipelineError, match="unknown option"):
        options_for("x", default, {"x": {"bit": 3}})
    with pytest.raises(PipelineError, match="5 bits"):
        Options(bits=5)
