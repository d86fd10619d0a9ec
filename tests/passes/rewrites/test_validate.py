"""Validate finds wrong rewrites of every kind, and lets right ones pass."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from graphwright.frontends.capture import capture
from graphwright.ir.errors import MismatchError
from graphwright.passes.patterns import Rule, aten
from graphwright.passes.pipeline import Pipeline
from graphwright.passes.validate import Validate

X = torch.randn(2, 4, 5, 8, generator=torch.Generator().manual_seed(0))


class GeluForQuickGelu(Rule):
    """x * sigmoid(1.702 * x) -> gelu(x)."""

    def pattern(self, x):
        return x * aten.sigmoid(x * 1.702)

    def rewrite(self, m, rw):
        return rw.aten.gelu(m.x)


class ForgottenMask(Rule):
    """matmul(softmax(q @ k + mask), v) -> attention without the mask."""

    def pattern(self, q, k, v, mask):
        return aten.matmul(aten.softmax(aten.matmul(q, k) + mask, -1, ...), v)

    def rewrite(self, m, rw):
        return rw.aten.scaled_dot_product_attention(m.q, rw.aten.transpose.int(m.k, -2, -1), m.v, scale=1.0)


class CausalForAny(ForgottenMask):
    """matmul(softmax(q @ k + mask), v) -> causal attention, whatever the mask is."""

    def rewrite(self, m, rw):
        key = rw.aten.transpose.int(m.k, -2, -1)
        return rw.aten.scaled_dot_product_attention(m.q, key, m.v, None, 0.0, True, scale=1.0)


class HalfMean(Rule):
    """to(mean(to(x) ** 2), half) -> mean(x ** 2) in half precision."""

    def pattern(self, x):
        return aten.to.dtype(aten.mean(aten.to.dtype(x, torch.float32) ** 2, [-1], True), torch.float16)

    def rewrite(self, m, rw):
        return rw.aten.mean(rw.aten.mul(m.x, m.x), [-1], True)


class SwappedWeights(Rule):
    """linear(x, w) + linear(x, v) -> linear(x, w) + linear(x, w)."""

    def pattern(self, x, w, v):
        return aten.linear(x, w) + aten.linear(x, v)

    def rewrite(self, m, rw):
        return rw.aten.mul(rw.aten.linear(m.x, m.w), 2)


class SoftplusTail(Rule):
    """log(1 + exp(x)) -> x, right for large x only."""

    def pattern(self, x):
        return aten.log(1 + aten.exp(x))

    def rewrite(self, m, rw):
        return rw.aten.relu(m.x)


def causal(x):
    size = x.shape[2]
    keep = torch.arange(size)[None] <= torch.arange(size)[:, None]
    return torch.where(keep, 0.0, torch.finfo(x.dtype).min)


def windowed(x):
    size = x.shape[2]
    keep = (torch.arange(size)[None] <= torch.arange(size)[:, None]) & (
        torch.arange(size)[None] > torch.arange(size)[:, None] - 3
    )
    return torch.where(keep, 0.0, torch.finfo(x.dtype).min)


def attention(mask):
    return lambda x: torch.softmax(x @ x.transpose(-1, -2) + mask(x), -1) @ x


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.two.weight.data.copy_(self.one.weight.data)

    def forward(self, x):
        return self.one(x) + self.two(x)


WRONG = [
    (GeluForQuickGelu, lambda x: x * torch.sigmoid(1.702 * x), X),
    (ForgottenMask, attention(causal), X),
    (CausalForAny, attention(windowed), X),
    (HalfMean, lambda x: x.float().pow(2).mean(-1, keepdim=True).half(), X.half()),
    (SoftplusTail, lambda x: torch.log(1 + torch.exp(x)), X),
]


@pytest.mark.parametrize(("rule", "spell", "x"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_wrong_rewrites_are_found_and_undone(trace, rule, spell, x):
    program = Pipeline("canonicalize").run(trace(spell, x, dynamic=(0, 2)), [Validate()]).program
    before = [node.format_node() for node in program.nodes]
    with pytest.raises(MismatchError, match=f"rule {rule.__name__} changes a value") as error:
        Pipeline([rule]).run(program, [Validate()], in_place=True)
    assert error.value.reproducer
    assert [node.format_node() for node in program.nodes] == before


def test_weights_that_happen_to_be_equal_do_not_hide_an_error(trace_module):
    """Parameters are drawn anew: the example would not have shown it."""
    program = Pipeline("canonicalize").run(trace_module(Pair(), X)).program
    fused = Pipeline([SwappedWeights]).run(program, validate=False).program
    torch.testing.assert_close(fused.run(X), program.run(X))
    with pytest.raises(MismatchError, match="SwappedWeights"):
        Pipeline([SwappedWeights]).run(program, [Validate()])


def test_the_error_names_the_line_of_the_model(trace_module):
    program = Pipeline("canonicalize").run(trace_module(nn.Sequential(Pair()), X)).program
    with pytest.raises(MismatchError, match=r"at: 0, test_validate.py:\d+"):
        Pipeline([SwappedWeights]).run(program, [Validate()])


def test_a_causal_mask_is_not_the_same_as_causal_with_a_past(trace):
    """A right use of the wrong rule above."""
    program = Pipeline("canonicalize").run(trace(attention(causal), X, dynamic=(0, 2))).program
    result = Pipeline([CausalForAny]).run(program, [Validate()])
    assert result.trace.records[0].notes["validated"] == {"rewrites": 1, "checked": 1, "unchecked": []}


def test_the_reproducer_runs_and_shows_the_difference(trace, tmp_path):
    program = Pipeline("canonicalize").run(trace(attention(windowed), X, dynamic=(0, 2))).program
    with pytest.raises(MismatchError) as error:
        Pipeline([CausalForAny]).run(program, [Validate(folder=tmp_path)])
    path = tmp_path / "reproduce_CausalForAny.py"
    assert path.read_text(encoding="utf-8") == error.value.reproducer
    show = "\nassert not torch.allclose(*[side(*INPUTS)[0] for side in (before, after)])\n"
    names = error.value.reproducer.partition("def before(")[2].partition(")")[0]
    source = error.value.reproducer + f"\nINPUTS = [{names}]\n" + show
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
            x = x * torch.sigmoid(x)
        return x


def test_isomorphic_rewrites_are_checked_once(trace_module):
    program = trace_module(Blocks(), X, dynamic=(0,))
    result = Pipeline("canonicalize,fuse-activation").run(program, [Validate()])
    assert result.trace.records[1].notes["validated"] == {"rewrites": 6, "checked": 1, "unchecked": []}


def test_what_cannot_be_run_is_named(trace):
    def spell(x):
        y = x + 1
        y.mul_(2)
        return y.relu()

    notes = Pipeline("canonicalize").run(trace(spell, X), [Validate()]).trace.records[0].notes["validated"]
    assert notes["unchecked"] and "writes in place" in notes["unchecked"][0]


def test_duplicates_and_constants(trace):
    """A value that stands for another one outside the region."""

    def spell(self, x):
        return (x * 2).relu() + (x * 2).relu() * (self.c + self.c)

    result = Pipeline("canonicalize").run(trace(spell, X, c=torch.tensor(3.0)), [Validate()])
    notes = result.trace.records[0].notes["validated"]
    assert notes["rewrites"] >= 3 and not notes["unchecked"]


class DividedPositions(nn.Module):
    """Integers that become floats in the default dtype, and a constant of the default dtype."""

    def forward(self, ids):
        return ids.type_as(ids / 128), ids + torch.arange(0, 1, 0.25)


def test_floats_made_of_integers_are_compared_in_one_precision():
    program = capture(DividedPositions().eval(), (torch.randint(9, (3, 4)),))
    result = Pipeline("canonicalize").run(program, [Validate()])
    assert {"Cast", "FoldConstants"} <= {rewrite.rule for rewrite in result.trace.records[0].rewrites}
