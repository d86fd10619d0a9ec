"""Merging sibling linears and splitting them again: exact in both directions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphwright.ir.node import is_call
from graphwright.ir.snapshot import fingerprint
from graphwright.passes.pipeline import Pipeline

aten = torch.ops.aten
F64 = torch.float64


def x(*shape):
    return torch.randn(*(shape or (3, 4)), dtype=F64, generator=torch.Generator().manual_seed(1))


def linears(program):
    return [node for node in program.nodes if is_call(node, aten.linear)]


def leaves(value):
    return torch.utils._pytree.tree_leaves(value)


def check(made, *inputs, count, pipeline="canonicalize,merge-linears"):
    """Merge, compare, split again, compare the structure; returns the merged program."""
    before = Pipeline("canonicalize").run(made).program
    state = {name: id(tensor) for name, tensor in before.state.items()}
    result = Pipeline(pipeline).run(made)
    merged = result.program
    assert len(linears(merged)) == count
    assert {name: id(tensor) for name, tensor in merged.state.items()} == state
    for have, want in zip(leaves(merged.run(*inputs)), leaves(made.run(*inputs)), strict=True):
        # one large product may add in another order than several small ones
        assert torch.allclose(have, want, rtol=1e-12, atol=1e-12)
    split = Pipeline("unmerge-linears").run(merged).program
    assert fingerprint(split) == fingerprint(before)
    for have, want in zip(leaves(split.run(*inputs)), leaves(before.run(*inputs)), strict=True):
        assert torch.equal(have, want)
    if count < len(linears(before)):
        assert fingerprint(result.undo("merge-linears")) == fingerprint(before)
    return merged


class Projections(nn.Module):
    def __init__(self, bias=(True, True, True), sizes=(4, 6, 2)):
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(4, size, bias=b) for size, b in zip(sizes, bias, strict=True))
        self.double()

    def forward(self, x):
        return self.q(x), torch.relu(self.k(x)), self.v(x) * 2


def test_projections_of_one_input_are_merged(trace_module):
    merged = check(trace_module(Projections(), x(), dynamic=(0,)), x(5, 4), count=1)
    (linear,) = linears(merged)
    assert linear.meta["val"].shape[-1] == 12


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4), (0, 4)])
def test_inputs_of_any_rank(trace_module, shape):
    check(trace_module(Projections(), x(*shape)), x(*shape), count=1)


def test_gradients_and_training_are_those_of_the_unmerged(trace_module):
    net = Projections()
    merged = Pipeline("canonicalize,merge-linears").run(trace_module(net, x())).program
    grads = []
    for call in (net, merged.run):
        net.zero_grad()
        sum(out.square().sum() for out in call(x())).backward()
        grads.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(*grads, strict=True))
    with torch.no_grad():
        net.k.weight.mul_(3)
    assert torch.allclose(merged.run(x())[1], net(x())[1], rtol=1e-12)


# ---- cases that other merging transformations got wrong --------------------------------------


def test_linears_at_the_top_level(trace_module):
    """Module paths without a parent."""
    check(trace_module(Projections(), x()), x(), count=1)


def test_a_linear_that_is_also_used_on_another_input(trace_module):
    class Net(Projections):
        def forward(self, x):
            return self.q(x), self.k(x), self.k(x * 2), self.v(x.abs())

    check(trace_module(Net(), x()), x(), count=3)


def test_the_same_linear_twice_on_one_input(trace_module):
    class Net(Projections):
        def forward(self, x):
            return self.q(x) + 1, self.q(x), self.k(x)

    check(trace_module(Net(), x()), x(), count=1)


def test_the_same_linear_twice_without_canonicalization(trace_module):
    class Net(Projections):
        def forward(self, x):
            return self.q(x) + 1, self.q(x) + 2, self.k(x)

    made = trace_module(Net(), x())
    made.invariants = frozenset({"functional"})
    merged = Pipeline("merge-linears").run(made).program
    assert len(linears(merged)) == 2
    for have, want in zip(merged.run(x()), made.run(x()), strict=True):
        assert torch.allclose(have, want, rtol=1e-12)
    assert fingerprint(Pipeline("unmerge-linears").run(merged).program) == fingerprint(made)


def test_linears_called_by_keyword(trace_module):
    class Net(Projections):
        def forward(self, x):
            first = nn.functional.linear(input=x, weight=self.q.weight, bias=self.q.bias)
            return first, self.k(input=x), nn.functional.linear(x, bias=self.v.bias, weight=self.v.weight)

    check(trace_module(Net(), x()), x(), count=1)


def test_mixed_biases_gain_none(trace_module):
    net = Projections(bias=(True, False, True))
    before = set(net.state_dict())
    merged = check(trace_module(net, x()), x(), count=2)
    assert set(net.state_dict()) == before
    assert {bool(node.args[2:]) for node in linears(merged)} == {True, False}


def test_two_without_bias(trace_module):
    check(trace_module(Projections(bias=(False, True, False)), x()), x(), count=2)


def test_shared_weights(trace_module):
    class Net(Projections):
        def __init__(self):
            super().__init__(sizes=(4, 4, 4))
            self.k.weight = self.q.weight

    # one weight cannot be in a group twice: the split would not know which is which
    check(trace_module(Net(), x()), x(), count=2)


def test_functional_linears_on_an_exported_graph(trace):
    """Calls of F.linear, not of modules."""
    state = {"a": nn.Parameter(x(3, 4)), "b": nn.Parameter(x(5, 4))}
    made = trace(lambda m, i: (nn.functional.linear(i, m.a), nn.functional.linear(i, m.b)), x(), **state)
    check(made, x(), count=1)


# ---- what is not merged ----------------------------------------------------------------------


def test_a_single_linear_stays(trace_module):
    check(trace_module(nn.Linear(4, 4).double(), x()), x(), count=1, pipeline="canonicalize,merge-linears{least=1}")
    result = Pipeline("canonicalize,merge-linears{least=1}").run(trace_module(nn.Linear(4, 4).double(), x()))
    assert not result.trace.records[1].changed


def test_least_is_the_smallest_group(trace_module):
    made = trace_module(Projections(), x())
    assert len(linears(check(made, x(), count=3, pipeline="canonicalize,merge-linears{least=4}"))) == 3
    check(made, x(), count=1, pipeline="canonicalize,merge-linears{least=3}")


def test_a_linear_whose_weight_is_made_later_stays(trace_module):
    class Net(Projections):
        def forward(self, x):
            first = self.q(x)
            late = nn.functional.linear(x, first.sum() * self.k.weight, self.k.bias)
            return first, late, self.v(x)

    check(trace_module(Net(), x()), x(), count=2)


def test_a_chain_is_no_group(trace_module):
    check(trace_module(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double(), x()), x(), count=2)


def test_weights_that_are_written_between_stay_apart(trace):
    def function(m, i):
        first = nn.functional.linear(i, m.a)
        m.b[0].add_(1)
        return first, nn.functional.linear(i, m.b)

    b = x(5, 4)
    made = trace(function, x(), a=x(3, 4), b=b)
    merged = Pipeline("canonicalize,merge-linears").run(made).program
    with torch.no_grad():
        b.copy_(x(5, 4))
    have, weight = merged.run(x())[1], x(5, 4)
    weight[0] += 1
    assert torch.allclose(have, nn.functional.linear(x(), weight), rtol=1e-12)


def test_an_input_that_is_written_between(trace):
    def function(m, i):
        first = nn.functional.linear(i, m.a)
        i[0].add_(1)
        return first, nn.functional.linear(i, m.b)

    made = trace(function, x(), a=x(3, 4), b=x(5, 4))
    merged = Pipeline("canonicalize,merge-linears").run(made).program
    want = function(type("M", (), {"a": x(3, 4), "b": x(5, 4)}), x())
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(merged.run(x()), want, strict=True))


def test_an_unused_linear(trace_module):
    class Net(Projections):
        def forward(self, x):
            self.k(x)
            return self.q(x), self.v(x)

    made = trace_module(Net(), x())
    made.invariants = frozenset({"functional"})
    merged = Pipeline("merge-linears").run(made).program
    split = Pipeline("unmerge-linears").run(merged).program
    assert fingerprint(split) == fingerprint(made)


# ---- splitting what looks merged -------------------------------------------------------------


def cut_elsewhere(m, i):
    return nn.functional.linear(i, torch.cat([m.a, m.b])).split([4, 4], -1)


def cut_along_the_batch(m, i):
    return nn.functional.linear(i, torch.cat([m.a, m.b])).split([1, 2], 0)


def used_elsewhere(m, i):
    whole = nn.functional.linear(i, torch.cat([m.a, m.b]))
    return *whole.split([3, 5], -1), whole.sum()


def joined_along_the_inputs(m, i):
    return nn.functional.linear(torch.cat([i, i], 1), torch.cat([m.a, m.a], 1)).split([1, 2], -1)


@pytest.mark.parametrize("function", [cut_elsewhere, cut_along_the_batch, used_elsewhere, joined_along_the_inputs])
def test_what_only_looks_merged_stays(trace, function):
    state = {"a": nn.Parameter(x(3, 4)), "b": nn.Parameter(x(5, 4))}
    made = trace(function, x(), **state)
    result = Pipeline("canonicalize,unmerge-linears").run(made)
    assert not result.trace.records[1].changed
    for have, want in zip(result.program.run(x()), made.run(x()), strict=True):
        assert torch.equal(have, want)
