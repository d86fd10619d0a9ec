"""The `torch.compile` backend: the same results and gradients, graphs of ours behind them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphwright import dynamo
from graphwright.runtime.optimize import dispatcher_of

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def made(monkeypatch):
    """The graphs that the backend makes during a test."""
    graphs = []
    original = dynamo.LiftedGraph.__init__

    def record(self, *args):
        original(self, *args)
        graphs.append(self)

    monkeypatch.setattr(dynamo.LiftedGraph, "__init__", record)
    return graphs


def served(graphs):
    return [dispatcher_of(graph.served).served for graph in graphs]


def test_dynamo_knows_the_backend_by_name():
    assert "graphwright" in torch._dynamo.list_backends()


@pytest.mark.parametrize("name", ["bert", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_same_results(name, make, tokens, mask, made):
    model = make(name).double()
    compiled = torch.compile(model, backend=dynamo.graphwright, dynamic=True)
    with torch.no_grad():
        for batch, length in ((2, 7), (2, 7), (3, 9), (3, 9)):
            inputs = {"input_ids": tokens(batch, length), "attention_mask": mask(batch, length, "left")}
            torch.testing.assert_close(compiled(**inputs)[0], model(**inputs)[0], **TOLERANCE)
    assert sum(served(made)) > 0


def test_same_gradients(make, tokens, made):
    model = make("llama").double()
    ids = tokens(2, 6)
    compiled = torch.compile(model, backend=dynamo.graphwright)
    for _ in range(3):
        gradients = []
        for candidate in (model, compiled):
            model.zero_grad()
            candidate(input_ids=ids, labels=ids).loss.backward()
            gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        for expected, actual in zip(*gradients, strict=True):
            torch.testing.assert_close(actual, expected, **TOLERANCE)
    assert sum(served(made)) > 0


def test_passes_of_the_users_choice(made):
    class Siblings(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x):
            return self.one(x) * self.other(x)

    model = Siblings()
    compiled = torch.compile(model, backend=dynamo.graphwright, options={"pipeline": "canonicalize,merge-linears"})
    x = torch.randn(3, 8)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(compiled(x), model(x))
    (graph,) = dispatcher_of(made[0].served)._states[0].graphs.values()
    targets = [node.target for node in graph[0].artifact.program.graph.nodes]
    assert targets.count(torch.ops.aten.linear.default) == 1


def test_the_weights_of_another_module_are_used(made):
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)

    def run(layer, x):
        return layer(x).relu()

    compiled = torch.compile(run, backend=dynamo.graphwright)
    x = torch.randn(3, 4)
    with torch.no_grad():
        for layer in (first, first, second, first):
            torch.testing.assert_close(compiled(layer, x), run(layer, x))


def test_graph_breaks(made):
    def run(x):
        y = x.sin() @ x
        torch._dynamo.graph_break()
        return y.cos() + x

    compiled = torch.compile(run, backend=dynamo.graphwright)
    x = torch.randn(4, 4)
    for _ in range(2):
        torch.testing.assert_close(compiled(x), run(x))
    assert len(made) == 2


@pytest.mark.parametrize("options", [{"mode": "max-autotune"}, {"options": {"passes": "canonicalize"}}])
def test_unknown_options_are_refused(options):
    with pytest.raises(ValueError, match="graphwright"):
        dynamo.graphwright(torch.fx.symbolic_trace(nn.ReLU()), [], **options)
