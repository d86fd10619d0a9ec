"""explain: where passes match and why they do not elsewhere, without changing anything."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import graphwright as gw
from graphwright.ir.snapshot import fingerprint


class Attention(nn.Module):
    def __init__(self, activation=None):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.activation = activation

    def forward(self, x):
        scores = self.q(x) @ self.k(x).transpose(-1, -2) * 0.3
        if self.activation is not None:
            scores = self.activation(scores)
        return torch.softmax(scores, -1) @ self.v(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Attention(), Attention(), Attention(torch.relu), Attention(torch.relu)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return torch.softmax(x, 1)


@pytest.fixture(scope="module")
def net(trace_module):
    return trace_module(Net(), torch.randn(2, 5, 8), dynamic=(0, 1))


def test_what_would_happen_and_what_nearly_would(net):
    before = fingerprint(net)
    explanation = gw.explain(net, "fuse-attention")
    assert fingerprint(net) == before
    assert not net.invariants
    (found,) = explanation.passes
    assert (found.name, found.prepared) == ("fuse-attention", "canonicalize")
    assert sum(rewrite.rule == "SoftmaxAttention" for rewrite in found.rewrites) == 2
    reasons = [miss.reason for miss in explanation.misses]
    assert ["relu" in reason for reason in reasons] == [True, True, False]
    assert "over dim 1" in reasons[-1]


def test_the_text_groups_layers_and_names_lines(net):
    text = str(gw.explain(net, "fuse-attention"))
    lines = text.splitlines()
    assert lines[0].startswith("fuse-attention (after canonicalize): ")
    assert lines[0].endswith("rewritten, 3 missed")
    assert "SoftmaxAttention x2 at layers.{0,1}" in text or "SoftmaxAttention x2 at layers.{0..1}" in text
    assert "relu is no step from a product of queries and keys to a softmax" in text
    assert "test_explain.py:" in text
    assert text == str(gw.explain(net, "fuse-attention"))


def test_few_misses_on_demand(net):
    every, one = str(gw.explain(net, "fuse-attention")), str(gw.explain(net, "fuse-attention", shown=1))
    assert "over dim 1" in every
    assert "over dim 1" not in one


def test_the_same_as_data(net):
    data = gw.explain(net, "canonicalize,fuse-attention").as_dict()
    assert [entry["pass"] for entry in data] == ["canonicalize", "fuse-attention"]
    assert data == json.loads(json.dumps(data))
    assert data[1]["prepared"] == ""
    assert len(data[1]["misses"]) == 3
    assert {entry["module"] for entry in data[1]["rewrites"] if entry["rule"] == "SoftmaxAttention"} == {
        "layers.0",
        "layers.1",
    }


def test_the_default_pipeline_is_explained(net):
    assert [found.name for found in gw.explain(net).passes] == [str(p) for p in gw.Pipeline("default").passes]


def test_rules_are_explained_too(net):
    class ReluOfScaled(gw.Rule):
        """relu(x * 0.3)."""

        def pattern(self, x):
            return gw.aten.relu(gw.aten.mul(x, 0.25))

        def rewrite(self, m, rw):
            return m.x

    text = str(gw.explain(net, ReluOfScaled))
    assert text.startswith("ReluOfScaled: 0 matches")
    assert str(gw.explain(net, [ReluOfScaled])) == text


def test_a_pass_instance_and_a_function(net):
    from graphwright.passes.attention.fuse import FuseAttention

    (found,) = gw.explain(net, FuseAttention(causal=False)).passes
    assert found.name == "fuse-attention{causal=false}"
    (found,) = gw.explain(net, lambda program, rewriter: None).passes
    assert not found.rewrites


def test_repeat_is_explained_by_its_passes(net):
    names = [found.name for found in gw.explain(net, "repeat{times=2}(canonicalize,fuse-attention)").passes]
    assert names[:2] == ["canonicalize", "fuse-attention"]


def test_an_unknown_pass(net):
    with pytest.raises(gw.PipelineError, match="there is no pass named 'fuse-atention'"):
        gw.explain(net, "fuse-atention")


def test_a_program_with_nothing_to_say(trace):
    explanation = gw.explain(trace(lambda x: x + 1, torch.ones(2)), "fuse-attention")
    assert not explanation.misses
    assert "0 rewritten, 0 missed" in str(explanation)
