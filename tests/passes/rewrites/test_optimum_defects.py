"""Defects of the graph transformations of optimum.fx, each as a test of our counterpart.

`MergeLinears` has its tests with the pass.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphwright.passes.pipeline import Pipeline

IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def statistics(norm):
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    return norm


def test_fuse_batch_norm_2d_without_affine_weights_is_not_off_by_one(trace_module, rewrite):
    model = nn.Sequential(nn.Conv2d(3, 5, 3), statistics(nn.BatchNorm2d(5, affine=False))).eval()
    assert rewrite(trace_module(model, IMAGE), "fold-batch-norm").fired == {"FuseBatchNormInConv": 1}


@pytest.mark.parametrize("first", [True, False])
def test_fuse_batch_norm_1d_without_affine_weights_does_not_fail(trace_module, rewrite, first):
    norm, linear = statistics(nn.BatchNorm1d(8, affine=False)), nn.Linear(8, 8)
    model = nn.Sequential(*((norm, linear) if first else (linear, norm))).eval()
    assert rewrite(trace_module(model, ROWS), "fold-batch-norm").fired.total() == 1


def test_fuse_batch_norm_leaves_training_mode_alone(trace, rewrite):
    """Statistics of the batch are not those that would be folded."""

    def spell(self, x):
        y = nn.functional.conv2d(x, self.w)
        return torch.ops.aten.batch_norm(y, None, None, self.m.clone(), self.v.clone(), True, 0.1, 1e-5, False)

    state = {"w": nn.Parameter(torch.randn(5, 3, 3, 3)), "m": torch.zeros(5), "v": torch.ones(5)}
    result = Pipeline("canonicalize,fold-batch-norm").run(trace(spell, IMAGE, **state))
    assert not result.trace.records[1].rewrites
    assert "training mode: the statistics are those of the batch" in "\n".join(map(str, result.misses))
    torch.testing.assert_close(result.program.run(IMAGE), trace(spell, IMAGE, **state).run(IMAGE))


class Shared(nn.Module):
    """One linear on two inputs of different width in front."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(self.linear(x).relu())


def test_fuse_bias_of_a_shared_linear_has_the_right_shape(trace_module, rewrite):
    done = rewrite(trace_module(Shared(), ROWS), "fuse-bias{into=weight}")
    assert done.fired == {"BiasIntoWeight": 2}


PASSES = ["fuse-bias{into=weight}", "div-to-mul", "fold-batch-norm", "merge-linears", "conv1d-to-linear"]


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.first, self.second = statistics(nn.BatchNorm1d(8)), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = self.norm(self.first(x)) / 4
        return nn.functional.linear(x, self.first.weight) @ self.second.weight


@pytest.mark.parametrize("name", PASSES)
def test_undo_of_a_single_pass_is_the_program_before_it(trace_module, rewrite, name):
    """`compose` of one transformation applied it again instead of reversing it."""
    program = trace_module(Everything().eval(), ROWS)
    before = Pipeline("canonicalize").run(program)
    result = Pipeline(name).run(before.program)
    undone = result.undo(name.partition("{")[0]) if result.trace.records[0].changed else result.program
    assert [n.format_node() for n in undone.nodes] == [n.format_node() for n in before.program.nodes]
    assert undone.state == before.program.state


def test_passes_fire_on_functional_calls(trace, rewrite):
    """Transformations that look for `nn.Linear` modules find nothing in an exported graph."""

    def spell(self, x):
        return nn.functional.linear(x, self.w) + self.b

    done = rewrite(trace(spell, ROWS, w=nn.Parameter(torch.randn(8, 8)), b=nn.Parameter(torch.randn(8))), "fuse-bias")
    assert done.fired.total() == 1


def test_a_pass_does_not_change_by_being_printed_or_hashed():
    """The `signature` of a transformation changed it."""
    one = Pipeline("fuse-bias{into=weight},div-to-mul{exact=false}")
    text, value = str(one), hash(one)
    assert (str(one), hash(one)) == (text, value) and Pipeline(text) == one
