"""Calls that no graph can serve run the original forward, with one logged sentence, and never give a wrong answer."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from graphwright.passes.pipeline import Pipeline
from graphwright.runtime import check
from graphwright.runtime.graph import CapturedGraph
from graphwright.runtime.optimize import dispatcher_of, optimize


def sentences(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "graphwright"]


@pytest.fixture(autouse=True)
def _warnings_only(caplog):
    caplog.set_level(logging.WARNING, logger="graphwright")


class Plain(nn.Module):
    """A layer with an optional twist that its subclasses add."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)

    def forward(self, x, scale=1.0):
        return torch.relu(self.linear(x)) * scale


def assert_equal_calls(module, optimized, *shapes, **kwargs):
    for shape in shapes:
        x = torch.randn(*shape)
        torch.testing.assert_close(optimized(x, **kwargs), module(x, **kwargs))


def test_plain_module():
    module = Plain()
    optimized = optimize(module)
    assert_equal_calls(module, optimized, (3, 4), (5, 4), (2, 4), (1, 4), (1, 4), (2, 3, 4), (5, 2, 4))
    assert_equal_calls(module, optimized, (3, 4), (5, 4), scale=2.0)
    assert dispatcher_of(optimized).captures == 4
    assert dispatcher_of(optimized).served == 5


def test_output_attentions(make, tokens, caplog):
    model = make("gpt2", attn_implementation="eager")
    optimized = optimize(model)
    for _ in range(3):
        assert len(optimized(tokens(2, 5), output_attentions=True).attentions) == 2
    assert sentences(caplog) == [
        "GPT2LMHeadModel runs its original forward for a call because output_attentions is on."
    ]


def test_hooks_run(caplog):
    module = Plain()
    optimized = optimize(module)
    assert_equal_calls(module, optimized, (3, 4), (5, 4))
    seen = []
    handle = module.linear.register_forward_hook(lambda *_: seen.append(1))
    optimized(torch.randn(3, 4))
    assert seen == [1]
    handle.remove()
    optimized(torch.randn(3, 4))
    assert dispatcher_of(optimized).captures == 1
    assert len(sentences(caplog)) == 1
    assert "a Linear has hooks" in sentences(caplog)[0]


def test_autocast(make, tokens, caplog):
    model = make("bert")
    optimized = optimize(model)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(optimized(tokens(2, 5))[0], model(tokens(2, 5))[0])
    assert "autocast is on" in sentences(caplog)[0]


def test_a_forward_that_counts(caplog):
    class Counting(Plain):
        calls = 0

        def forward(self, x):
            self.calls = self.calls + 1
            return super().forward(x) * self.calls

    module = Counting()
    optimized = optimize(module)
    for i in range(4):
        x = torch.randn(3, 4)
        torch.testing.assert_close(optimized(x), Plain.forward(module, x) * (i + 1))
    assert dispatcher_of(optimized).served == 0
    assert "its forward changes the model" in sentences(caplog)[0]


def test_batch_norm_in_training(caplog):
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    twin = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    twin.load_state_dict(module.state_dict())
    optimized = optimize(module)
    for _ in range(4):
        x = torch.randn(3, 4)
        torch.testing.assert_close(optimized(x), twin(x))
    assert torch.equal(module[1].running_mean, twin[1].running_mean)
    assert module[1].num_batches_tracked == 4
    assert dispatcher_of(optimized).captures <= 1


def test_a_forward_that_writes_to_its_input(caplog):
    class Writing(Plain):
        def forward(self, x):
            return x.add_(1)

    optimized = optimize(Writing())
    for _ in range(3):
        x = torch.zeros(2, 4)
        assert torch.equal(optimized(x), torch.ones(2, 4))
        assert torch.equal(x, torch.ones(2, 4))
    assert "writes to its inputs" in sentences(caplog)[0]


def test_data_dependent_branches(caplog):
    class Branching(Plain):
        def forward(self, x):
            return self.linear(x) if x.sum() > 0 else x

    module = Branching()
    optimized = optimize(module)
    for x in (torch.ones(3, 4), -torch.ones(3, 4), torch.ones(2, 4), -torch.ones(3, 4)):
        assert torch.equal(optimized(x), module(x))
    assert dispatcher_of(optimized).captures == 1
    assert len(sentences(caplog)) == 1


def test_odd_arguments_and_results(caplog):
    class Odd(Plain):
        def forward(self, x, extra=None):
            return {"y": self.linear(x), "extra": extra, "n": len(x)}

    module = Odd()
    optimized = optimize(module)
    for extra in (None, "text", object(), [1, {"a": 2}]):
        for size in (3, 5, 3):
            result = optimized(torch.randn(size, 4), extra=extra)
            assert result["extra"] == extra
            assert result["n"] == size
    assert any("argument 'extra': a value is a object" in sentence for sentence in sentences(caplog))


def test_errors_of_the_original_pass_through():
    optimized = optimize(Plain())
    optimized(torch.randn(3, 4))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            optimized(torch.randn(3, 5))
        with pytest.raises(TypeError):
            optimized(torch.randn(3, 4), unknown=1)


def test_a_wrong_pass_is_left_out(caplog):
    def wrong(program, rewriter):
        for node in list(program.graph.nodes):
            if node.target is torch.ops.aten.relu.default:
                with rewriter.site("Wrong", (node,)) as edit:
                    edit.replace(node, edit.aten.sigmoid(node.args[0]))
                    edit.erase(node)

    module = Plain()
    optimized = optimize(module, pipeline=Pipeline([wrong]))
    assert_equal_calls(module, optimized, (3, 4), (5, 4), (2, 4))
    assert dispatcher_of(optimized).served == 2
    assert sentences(caplog) == []


def test_a_wrong_graph_is_never_used(caplog, monkeypatch):
    results = CapturedGraph.results
    monkeypatch.setattr(CapturedGraph, "results", lambda self, tensors: [t + 0.1 for t in results(self, tensors)])
    module = Plain()
    optimized = optimize(module)
    assert_equal_calls(module, optimized, (3, 4), (5, 4), (2, 4))
    assert dispatcher_of(optimized).captures == 1
    assert dispatcher_of(optimized).served == 0
    assert "tensor 0 differs by 0.1" in sentences(caplog)[0]


def test_a_wrong_gradient_is_noticed(caplog, monkeypatch):
    gradients = check._gradients
    calls = []

    def second_one_wrong(results, sources):
        calls.append(None)
        return [g * len(calls) for g in gradients(results, sources)]

    monkeypatch.setattr(check, "_gradients", second_one_wrong)
    module = Plain()
    optimized = optimize(module)
    assert_equal_calls(module, optimized, (3, 4), (5, 4))
    assert dispatcher_of(optimized).served == 0
    assert "gradient tensor" in sentences(caplog)[0]


def test_the_number_of_captures_is_bounded(caplog):
    module = Plain()
    optimized = optimize(module)
    dispatcher_of(optimized).max_graphs = 3
    for i in range(8):
        assert_equal_calls(module, optimized, (3, 4), (4, 4), scale=float(i))
    assert dispatcher_of(optimized).captures == 3
    assert len(sentences(caplog)) == 1
    assert "3 graphs have been captured and this call needs another one" in sentences(caplog)[0]


def test_function_transforms(caplog):
    module = Plain()
    optimized = optimize(module)
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(torch.func.vmap(optimized)(x), module(x))
    parameters = {name: value * 2 for name, value in module.named_parameters()}
    doubled = torch.func.functional_call(optimized, parameters, (x[0],))
    torch.testing.assert_close(doubled, torch.func.functional_call(module, parameters, (x[0],)))
    doubled.sum().backward()
    assert module.linear.weight.grad is not None
    assert_equal_calls(module, optimized, (3, 4), (5, 4))


def test_torch_export_sees_the_original():
    module = Plain()
    exported = torch.export.export(optimize(module), (torch.randn(3, 4),), strict=False)
    x = torch.randn(3, 4)
    torch.testing.assert_close(exported.module()(x), module(x))
