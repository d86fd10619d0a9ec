"""Weight expressions and decompositions."""

from __future__ import annotations

import torch

from graphwright.frontends.capture import capture
from graphwright.ir.node import module_path, op_name, source_line
from graphwright.lowering.compare import compare
from graphwright.lowering.decompose import decompose
from graphwright.lowering.fold import SMALL, constant_nodes, evaluate, fold


class Packed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Parameter(torch.randn(4, 8)), torch.nn.Parameter(torch.randn(4, 8))
        self.big = torch.nn.Parameter(torch.randn(1, 256))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled = torch.nn.functional.linear(x, torch.cat([self.a, self.b]) * 2)
        return scaled.sum() + self.big.expand(SMALL, 256)[:1] + x[:, :1]


def test_fold_computes_what_depends_on_weights_only() -> None:
    model = Packed()
    program = capture(model, (torch.randn(3, 8),))
    constant = constant_nodes(program)
    assert {op_name(node) for node in constant} == {"cat", "mul.Tensor"}
    last = next(node for node in constant if op_name(node) == "mul.Tensor")
    assert torch.equal(evaluate(program, last), torch.cat([model.a, model.b]).detach() * 2)
    before = [str(node) for node in program.nodes]
    folded = fold(program)
    assert [name for name in folded.state if name.startswith("folded.")] == [f"folded.{last.name}"]
    assert "a" not in folded.state and "big" in folded.state
    assert [str(node) for node in program.nodes] == before
    compare(model, folded)


def test_random_and_in_place_ops_are_not_folded() -> None:
    class Noisy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.randn(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.bernoulli(self.w.sigmoid())

    names = {op_name(node) for node in constant_nodes(capture(Noisy(), (torch.randn(3, 4),)))}
    assert names == {"sigmoid"}


class Gated(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.glu(x.relu(), -1)


def test_only_unsupported_calls_are_decomposed() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), Gated())
    program = capture(model, (torch.randn(3, 4),))
    assert decompose(program, lambda node: op_name(node) != "glu") == 1
    names = [op_name(node) for node in program.nodes if node.op == "call_function"]
    assert "glu" not in names and "linear" in names and "relu" in names
    new = next(node for node in program.nodes if op_name(node) == "sigmoid")
    assert module_path(new) == "1" and source_line(new).startswith("test_fold.py:")
    compare(model, program)


def test_a_decomposition_that_is_not_supported_either_is_left_alone() -> None:
    program = capture(Gated(), (torch.randn(3, 4),))
    before = [str(node) for node in program.nodes]
    assert decompose(program, lambda node: op_name(node) not in ("glu", "sigmoid")) == 0
    assert [str(node) for node in program.nodes] == before
