from __future__ import annotations

import pytest
import torch
from torch import nn

from graphwright.ir.errors import PassError
from graphwright.ir.rewriter import Rewriter
from graphwright.passes.patterns import Rule, apply_rules, aten


class AddZero(Rule):
    """x + 0 -> x"""

    requires = frozenset({"functional"})

    def pattern(self, x):
        return aten.add(x, 0)

    def rewrite(self, m, rw):
        return m.x


class TwoNegations(Rule):
    """-(-x) -> x"""

    def pattern(self, x):
        return aten.neg(aten.neg(x))

    def rewrite(self, m, rw):
        return m.x


class ShareLinear(Rule):
    """Two linears on one input -> one linear and two slices."""

    def pattern(self, x, w, v, b, c):
        return aten.linear(x, w, b), aten.linear(x, v, c)

    def rewrite(self, m, rw):
        size = m.w.shape[0]
        both = rw.aten.linear(m.x, rw.aten.cat([m.w, m.v]), rw.aten.cat([m.b, m.c]))
        return rw.aten.slice(both, -1, 0, size), rw.aten.slice(both, -1, size)


class Chain(nn.Module):
    def forward(self, x):
        twice = x.neg().neg()
        return ((twice + 0) * 2).neg().add(0).neg()


class TwoLinears(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(4, 3), nn.Linear(4, 5)

    def forward(self, x):
        return self.q(x).relu().sum(-1), self.k(x).exp()


def test_rules_run_until_nothing_matches(program_of):
    module, x = Chain(), torch.randn(3, 4, dtype=torch.float64)
    program, records = program_of(module, x), []
    report = apply_rules([TwoNegations, AddZero], program, Rewriter(program, records.append))
    assert report.applied == {"AddZero": 2, "TwoNegations": 2} and report.changed
    assert [str(node.target) for node in program.nodes if node.op == "call_function"] == ["aten.mul.Tensor"]
    assert torch.equal(program.run(x), module(x))  # exact: only no-ops were removed
    assert [record.rule for record in records] == ["TwoNegations", "AddZero", "AddZero", "TwoNegations"]


def test_several_outputs_are_replaced_together(program_of):
    module, x = TwoLinears().double(), torch.randn(2, 3, 4, dtype=torch.float64)
    program = program_of(module, x)
    report = apply_rules([ShareLinear], program, Rewriter(program))
    assert report.applied == {"ShareLinear": 1}
    assert sum(node.target is torch.ops.aten.linear.default for node in program.nodes) == 1
    for shape in ((2, 3, 4), (1, 7, 4)):
        x = torch.randn(shape, dtype=torch.float64)
        got = program.run_flat([x])
        for ours, reference in zip(got, module(x), strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)  # sums in another order


def test_the_misses_that_are_left_are_reported_nearest_first(program_of):
    class NegExpNeg(Rule):
        def pattern(self, x):
            return aten.neg(aten.exp(aten.neg(x)))

    class Misses(nn.Module):
        def forward(self, x):
            return -x.sin(), -(x.sin().exp())

    program = program_of(Misses(), torch.randn(3))
    report = apply_rules([NegExpNeg], program, Rewriter(program))
    assert not report.changed
    assert [(miss.score, miss.reason) for miss in report.misses] == [
        (2, "expected neg, found sin"),
        (1, "expected exp, found sin"),
    ]


def test_a_missing_invariant_is_an_error(program_of):
    program = program_of(Chain(), torch.randn(3), invariants=())
    with pytest.raises(PassError, match="requires a program that is functional"):
        apply_rules([AddZero], program, Rewriter(program))


def test_rules_that_undo_one_another_are_stopped(program_of):
    class Swap(Rule):
        def pattern(self, x):
            return aten.neg(x)

        def rewrite(self, m, rw):
            return rw.aten.neg(m.x)

    program = program_of(Chain(), torch.randn(3))
    with pytest.raises(PassError, match="do not come to an end"):
        apply_rules([Swap], program, Rewriter(program))


def test_a_rewrite_may_refuse_and_leaves_the_graph_as_it_was(program_of):
    class Refuses(Rule):
        def pattern(self, x):
            return aten.neg(x)

        def rewrite(self, m, rw):
            rw.aten.mul(m.x, -1)
            m.require(False, "not today", at=m.x)

    program = program_of(Chain(), torch.randn(3))
    before = str(program.graph)
    report = apply_rules([Refuses], program, Rewriter(program))
    assert not report.changed and {miss.reason for miss in report.misses} == {"not today"}
    assert str(program.graph) == before


def test_a_rewrite_that_returns_no_value_is_an_error(program_of):
    class Forgets(Rule):
        def pattern(self, x):
            return aten.neg(x)

        def rewrite(self, m, rw):
            rw.aten.mul(m.x, -1)

    program = program_of(Chain(), torch.randn(3))
    before = str(program.graph)
    with pytest.raises(PassError, match=r"must return 1 value\(s\), it returned None"):
        apply_rules([Forgets], program, Rewriter(program))
    assert str(program.graph) == before
