"""Decomposition of single calls."""

from __future__ import annotations

import torch

import graphwright as gw
from graphwright.ir.node import is_call
from graphwright.lowering.decompose import decompose

aten = torch.ops.aten


class Lerp(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.lerp(x.sin(), y.cos(), 0.25)


def test_arguments_that_share_a_fake_value_stay_apart():
    program = gw.capture(Lerp().eval(), {"x": torch.randn(2, 3), "y": torch.randn(2, 3)}, dynamic={})
    lerp = next(node for node in program.graph.nodes if is_call(node, aten.lerp))
    first, second = lerp.all_input_nodes
    second.meta["val"] = first.meta["val"]
    assert decompose(program, lambda node: not is_call(node, aten.lerp)) == 1
    assert gw.compare(Lerp(), program).ok


def test_rules_come_before_torchs_own():
    program = gw.capture(Lerp().eval(), {"x": torch.randn(2, 3), "y": torch.randn(2, 3)}, dynamic={})
    rules = {aten.lerp.Scalar: lambda x, y, weight: x * (1 - weight) + y * weight}
    assert decompose(program, lambda node: not is_call(node, aten.lerp), rules) == 1
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert names.count("aten.mul.Tensor") == 2 and "aten.where.self" not in names
    assert gw.compare(Lerp(), program).ok
