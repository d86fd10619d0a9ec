"""Relayouts that cancel, neutral masks, constants shared by layers; and what must stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphwright.ir.snapshot import Snapshot
from graphwright.passes.validation.history import History

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))

CANCELLED = {
    "permutations": (lambda x: x.permute(2, 0, 1).permute(1, 2, 0), []),
    "permute_and_transpose": (lambda x: x.permute(0, 2, 1).transpose(1, 2), []),
    "two_permutes": (lambda x: x.permute(2, 0, 1).permute(2, 0, 1), ["permute"]),
    "squeeze_of_unsqueeze": (lambda x: x.unsqueeze(1).squeeze(1), []),
    "unsqueeze_of_squeeze": (lambda x: x[:, :1].squeeze(1).unsqueeze(-2), ["slice"]),
    "reshape_of_unsqueeze": (lambda x: x.unsqueeze(1).reshape(x.shape[0], 40), ["reshape"]),
    "reshape_of_flatten": (lambda x: x.flatten(1).reshape(x.shape[0], 4, 10), ["reshape"]),
    "transposes_around_relu": (lambda x: x.transpose(1, 2).relu().transpose(1, 2), ["relu"]),
    "permutes_around_a_chain": (
        lambda x: (x.permute(1, 2, 0).mul(2).double() + 1).permute(2, 0, 1),
        ["mul", "to", "add"],
    ),
    "double_casts": (lambda x: (x * 2).double().float(), ["mul"]),
    "and_true": (lambda x: (x > 0) & torch.ones((), dtype=torch.bool), ["gt"]),
    "or_false": (lambda x: torch.zeros((), dtype=torch.bool) | (x > 0), ["gt"]),
}
KEPT = {
    "other_axes": (lambda x: x.transpose(1, 2).relu().transpose(0, 1), ["transpose", "relu", "transpose"]),
    "not_elementwise": (lambda x: x.transpose(1, 2).softmax(-1).transpose(1, 2), ["transpose", "softmax", "transpose"]),
    "a_vector_between": (lambda x: (x.transpose(1, 2) * x[0, :, 0]).transpose(1, 2), ["transpose", "mul", "transpose"]),
    "narrowing": (lambda x: x.bfloat16().float(), ["to", "to"]),
    "and_false": (lambda x: (x > 0) & torch.zeros((), dtype=torch.bool), ["gt", "bitwise_and"]),
    "and_larger": (lambda x: (x[0, 0, 0] > 0) & torch.ones(3, dtype=torch.bool), ["gt", "bitwise_and"]),
}


def calls(program):
    names = [str(node.target).split(".")[1] for node in program.nodes if node.op == "call_function"]
    return [name for name in names if name not in ("sym_size", "alias", "clone")]


@pytest.mark.parametrize("name", CANCELLED)
def test_what_cancels(trace, rewrite, name):
    spell, expected = CANCELLED[name]
    assert calls(rewrite(trace(spell, X, dynamic=(0,)), "canonicalize").program) == expected


@pytest.mark.parametrize("name", KEPT)
def test_what_stays(trace, rewrite, name):
    spell, expected = KEPT[name]
    found = calls(rewrite(trace(spell, X, dynamic=(0,)), "canonicalize").program)
    assert [one for one in found if one in expected] == expected


def test_a_value_that_is_used_between_keeps_its_transposes(trace, rewrite):
    def spell(x):
        y = x.transpose(1, 2).relu()
        return y.transpose(1, 2), y.sum(1)

    assert calls(rewrite(trace(spell, X), "canonicalize").program).count("transpose") == 2


class Layer(nn.Module):
    """Makes its own table, as each layer of GPT-J does."""

    def __init__(self, period):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("inverse", 1.0 / period ** (torch.arange(8) / 8), persistent=False)

    def forward(self, x):
        table = torch.arange(16)[:, None] * self.inverse
        return self.linear(x) * table[: x.shape[1]].cos()


class Layers(nn.Module):
    def __init__(self, *periods):
        super().__init__()
        self.layers = nn.ModuleList(Layer(period) for period in periods)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize(("periods", "count"), [((10, 10, 10), 1), ((10, 20, 10), 2)])
def test_equal_tables_of_layers_are_one(trace_module, rewrite, periods, count):
    done = rewrite(trace_module(Layers(*periods), X, dynamic=(0, 1)), "canonicalize")
    assert done.ops("cos") == count


def test_state_of_the_model_is_never_merged(trace, rewrite):
    """Buffers that are equal today may be loaded with other values."""
    program = trace(lambda self, x: x * self.a + self.b, X, a=torch.ones(8), b=torch.ones(8))
    assert {"a", "b"} <= set(rewrite(program, "canonicalize").program.state)


@pytest.mark.parametrize("name", ["llama", "t5", "gemma", "gptj"])
def test_nothing_is_computed_again_in_each_layer(rewrite, name):
    """Masks, positions, cosines and position biases depend on no weight of a layer: one computation serves all."""
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location("rewrites_models", Path(__file__).with_name("models.py"))
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    program = rewrite(models.capture(name), "canonicalize").program
    nodes = Snapshot.of(program).nodes
    weights = [key for key, value in program.state.items() if isinstance(value, nn.Parameter)]
    history = History(nodes, weights)
    invariant = [node for node in nodes if node.op == "call_function" and history.is_derived(node.name)]
    assert invariant
    seen = {(node.target, node.args, node.kwargs) for node in invariant}
    assert len(seen) == len(invariant)
    later = [node for node in invariant if any(f".{key}.1." in f".{node.path}." for key in ("layers", "h", "block"))]
    assert not later, later
