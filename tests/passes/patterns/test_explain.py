from __future__ import annotations

import json

import torch
from torch import nn

from graphwright.passes.patterns import Rule, aten, explain
from graphwright.passes.patterns.explain import explain_misses, join_paths


class GatedExp(Rule):
    """exp(x) * sigmoid(relu(x))"""

    requires = frozenset({"canonical"})

    def pattern(self, x):
        return aten.mul(aten.exp(x), aten.sigmoid(aten.relu(x)))


class Tanh(Rule):
    def pattern(self, x):
        return aten.tanh(x)


class Layer(nn.Module):
    def __init__(self, fits: bool) -> None:
        super().__init__()
        self.fits = fits
        self.dropout = nn.Dropout()

    def forward(self, x):
        return x.exp() * torch.sigmoid(x.relu() if self.fits else self.dropout(x.relu()))


def model() -> nn.Module:
    return nn.Sequential(*(Layer(fits=i < 2) for i in range(5)), nn.ReLU()).eval()


def test_matches_and_misses_are_grouped_by_layer(program_of):
    program = program_of(model(), torch.randn(2, 3))
    text = str(explain(program, [GatedExp, Tanh]))
    lines = text.splitlines()
    assert lines[0] == "GatedExp: 2 matches, 3 misses"
    assert lines[1] == "  the program is not canonical yet, as the rule requires: run canonicalize"
    assert lines[2].startswith("  match x2 at {0..1}, test_explain.py:")
    assert lines[3] == "  miss x3 after 3 nodes: expected relu, found dropout"
    assert lines[4].startswith("    at {2..4}.dropout")
    assert lines[5:7] == ["    mul(exp(x), sigmoid(relu(x)))", "                        ^^^^^^^"]
    assert "run canonicalize first" in lines[7]
    assert lines[9:] == [
        "Tanh: 0 matches, 0 misses",
        "  no node calls aten.tanh, where the pattern starts",
        "    tanh(x)",
    ]


def test_the_text_is_stable_and_the_data_is_json(program_of):
    first, second = (explain(program_of(model(), torch.randn(2, 3)), [GatedExp]) for _ in range(2))
    assert str(first) == str(second)
    (data,) = json.loads(json.dumps(first.as_dict()))
    assert len(data["matches"]) == 2 and {miss["culprit"] for miss in data["misses"]} >= {"dropout"}
    misses = first.rules[0].misses
    assert explain_misses(reversed(misses)).splitlines()[0].strip().startswith("miss x3")


def test_nearest_miss_first_and_the_rest_counted(program_of):
    class Far(nn.Module):
        def forward(self, x):
            return x * x, x.sin() * x, x.exp() * x, x.exp() * torch.sigmoid(x), x.exp() * torch.sigmoid(x.sin())

    text = str(explain(program_of(Far(), torch.randn(3)), [GatedExp], shown=2))
    scores = [line.split(" after ")[1][0] for line in text.splitlines() if line.startswith("  miss")]
    assert scores == ["3", "3"] and "  and 3 more, further off" in text


def test_long_patterns_are_clipped_around_the_caret(one_off):
    rule = one_off(deep)
    text = rule.compiled.text
    from graphwright.passes.patterns.text import caret

    line, marks = caret(text.text, (len(text.text) - 60, len(text.text) - 50)).splitlines()
    assert len(line) < 120 and line[marks.index("^") :][:10] == text.text[-60:-50]


def deep(x):
    for _ in range(30):
        x = aten.sigmoid(x)
    return x


def test_paths_that_differ_in_numbers_are_joined():
    assert join_paths(["layer.0.self", "layer.1.self", "layer.2.self"]) == "layer.{0..2}.self"
    assert join_paths(["a.0.b.1", "a.2.b.1"]) == "a.{0,2}.b.1"
    assert join_paths([""]) == ""
