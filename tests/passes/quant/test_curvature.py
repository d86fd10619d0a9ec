"""Curvature of the predictions: its sums are those of autograd, and codes that know of it keep predictions better."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphwright import Pipeline, capture
from graphwright.ir.errors import PassError
from graphwright.passes.quant.calibrate import Calibration, quantize
from graphwright.passes.quant.coupled import Descent, _blocks, descend
from graphwright.passes.quant.curvature import Tape
from graphwright.passes.quant.factors import factorize
from graphwright.passes.quant.grid import Grid
from graphwright.passes.quant.options import Options
from graphwright.passes.quant.sites import find_sites
from graphwright.passes.quant.solver import solve_all
from graphwright.passes.quant.sweep import Sweep


class Classifier(nn.Module):
    """Two linears, then classes of which few differ much: many errors of the second one's outputs cancel."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(48, 64), nn.Linear(64, 64), nn.Linear(64, 32, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(4 * torch.randn(32, 3) @ torch.randn(3, 64) / 8)

    def forward(self, x, attention_mask=None):
        logits = self.head(self.second(torch.relu(self.first(x))))
        return logits if attention_mask is None else logits + 0 * attention_mask[..., None]


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    model = Classifier().eval()
    program = capture(model, {"x": torch.randn(3, 8, 48), "attention_mask": torch.ones(3, 8)})
    return model, Pipeline("canonicalize").run(program, validate=False).program


def batches(count):
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(3, 8)
    mask[1, 5:] = 0
    return [{"x": torch.randn(3, 8, 48, generator=generator), "attention_mask": mask} for _ in range(count)]


def tape_of(program, data):
    leaves = [program.flatten(**batch) for batch in data]
    return Tape(program, find_sites(program, Options(), heads=True), leaves, "cpu", None, range(len(data)))


def test_sums_are_those_of_the_gradients_at_the_outputs(classifier):
    model, program = classifier
    data = batches(2)
    found = tape_of(program, data).run([batch["attention_mask"].bool() for batch in data])
    wanted = {path: torch.zeros(size, size, dtype=torch.float64) for path, size in (("second", 64), ("head", 32))}
    for seed, batch in enumerate(data):
        hidden = model.second(torch.relu(model.first(batch["x"]))).detach().requires_grad_()
        logits = model.head(hidden)
        labels = torch.multinomial(
            logits.detach().softmax(-1).flatten(0, 1), 1, generator=torch.Generator().manual_seed(seed)
        )[:, 0]
        keep = batch["attention_mask"].flatten().bool()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1)[keep], labels[keep], reduction="sum")
        for path, gradient in zip(wanted, torch.autograd.grad(loss, (hidden, logits)), strict=True):
            rows = gradient.flatten(0, 1).double()
            wanted[path] += rows.T @ rows
    for path, value in wanted.items():
        torch.testing.assert_close(found[path], value, rtol=1e-4, atol=1e-6)


def test_programs_without_predictions_are_refused():
    program = capture(nn.Linear(4, 4), (torch.randn(3, 4),))
    program.graph.output_node().args = ((None,),)
    with pytest.raises(PassError, match="curvature"):
        tape_of(program, [])


@pytest.fixture(scope="module")
def problem():
    """A weight [48, 64], a Hessian, and a curvature of low rank."""
    generator = torch.Generator().manual_seed(0)
    random = lambda *sizes: torch.randn(*sizes, generator=generator)  # noqa: E731
    inputs, gradients = random(900, 64) @ random(64, 64), random(500, 6) @ random(6, 48)
    return random(48, 64), inputs.T @ inputs, gradients.T @ gradients


def error(weight, quantized, hessian, curvature):
    difference = weight - quantized.dequantize()
    return float(((difference @ hessian) * (curvature @ difference)).sum())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [0, 32])
def test_errors_that_cancel_are_preferred(problem, symmetric, group_size):
    weight, hessian, curvature = problem
    options = Options(bits=3, symmetric=symmetric, group_size=group_size, damping=0.01)
    (plain,) = solve_all([weight], hessian.clone(), options, [None])
    (coupled,) = solve_all([weight], hessian.clone(), options, [None], [curvature])
    assert error(weight, coupled, hessian, curvature) < 0.6 * error(weight, plain, hessian, curvature)
    several = solve_all([weight, weight[:20]], hessian.clone(), options, [None, None], [curvature, None])
    assert torch.equal(several[0].codes, coupled.codes) and several[1].codes.shape == (20, 64)


def test_descent_never_makes_it_worse(problem):
    """With exact products; each round starts where the one before ended."""
    weight, hessian, curvature = (tensor.double() for tensor in problem)
    factors = factorize(hessian.clone(), 0.01)
    factors.__dict__["_coarse"] = factors.hessian
    group, target = torch.zeros(64, dtype=torch.long), weight.T.contiguous()
    grid = Grid(torch.full((1, 48), 0.4).double(), torch.full((1, 48), 4.0).double(), 7)
    codes = grid.quantize(target, group)
    values = grid.dequantize(codes, group)
    pull = factors.hessian @ target
    state = Descent(grid, codes, values, factors.hessian @ values - pull, pull)
    damped = curvature / curvature.diagonal().mean() + 0.3 * torch.eye(48, dtype=torch.float64)
    energy = lambda: float(((values - target) * (state.gradient @ damped)).sum())  # noqa: E731
    last = energy()
    for _ in range(5):
        descend(state, curvature, factors, group, Options(bits=3, group_size=0, rounds=1, scale_dtype="float32"))
        assert energy() <= last * (1 + 1e-5)
        last = energy()
    torch.testing.assert_close(state.gradient, factors.hessian @ values - pull, rtol=1e-5, atol=1e-2)


def test_blocks_have_every_output_once():
    for outputs in (1, 40, 64, 100, 5000):
        blocks = list(_blocks(outputs, torch.device("cpu")))
        assert torch.equal(torch.cat(blocks).sort().values, torch.arange(outputs))
        assert max(map(len, blocks)) <= 16


@pytest.mark.parametrize("descent", [False, True])
def test_few_outputs_get_the_codes_that_many_get(problem, descent):
    weight, hessian, _ = problem
    factors = factorize(hessian.clone(), 0.05)
    target = weight.repeat(2, 1).T.contiguous()
    grid = Grid(torch.full((2, 96), 0.3), torch.full((2, 96), 8.0), 15)
    group = torch.arange(64) // 32

    def swept(columns):
        part = Grid(grid.scale[:, columns].contiguous(), grid.zero[:, columns].contiguous(), 15)
        start = target[:, columns].clone(memory_format=torch.contiguous_format)
        codes, values = part.quantize(start, group), part.dequantize(part.quantize(start, group), group)
        factor = factors.descent if descent else factors.sweep
        Sweep(start, factor, part, group, codes, values, descent=descent).run()
        return codes

    wide, narrow = swept(slice(0, 96)), swept(slice(0, 48))
    assert (wide[:, :48] == narrow).float().mean() > 0.995  # rounding differs in the last place


def test_the_predictions_are_kept_better(classifier):
    """End to end, on inputs that calibration did not see."""
    model, program = classifier
    data = batches(24)
    x = torch.randn(64, 8, 48, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        wanted = model(x).log_softmax(-1)

    def divergence(curvature):
        options = Options(bits=3, group_size=0, curvature=curvature)
        found = quantize(program, find_sites(program, options), Calibration(data))
        kept = {path: model.get_submodule(path).weight.data for path in found}
        for path, item in found.items():
            model.get_submodule(path).weight.data = item.dequantize()
        with torch.no_grad():
            given = model(x).log_softmax(-1)
        for path, weight in kept.items():
            model.get_submodule(path).weight.data = weight
        return float((wanted.exp() * (wanted - given)).sum(-1).mean())

    assert divergence(True) < 0.85 * divergence(False)
