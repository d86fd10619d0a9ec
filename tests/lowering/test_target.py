"""Targets by name, and the report of what they cannot express."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx import Node

from graphwright.frontends.capture import capture
from graphwright.ir.errors import GraphwrightError, PipelineError, UnsupportedError
from graphwright.ir.node import op_name
from graphwright.lowering import registry
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.registry import register_target, target, target_names
from graphwright.lowering.support import Support
from graphwright.lowering.target import Target


class Layers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.special.i0(layer(x))
        return torch.fft.fft(x).real


def test_text_form() -> None:
    assert str(target("onnx")) == "onnx"
    assert str(target("onnx{opset=21}")) == "onnx{opset=21}"
    assert target("onnx{opset=21}") == target(str(target("onnx{opset=21}")))
    assert target(target("onnx")) == target("onnx")


def test_wrong_names_and_options() -> None:
    with pytest.raises(GraphwrightError, match="did you mean 'onnx'"):
        target("onxx")
    with pytest.raises(PipelineError, match="no option 'opsets'"):
        target("onnx{opsets=21}")
    with pytest.raises(GraphwrightError, match="it emits 18 to 24"):
        target("onnx{opset=5}")


def test_report_names_everything_at_once() -> None:
    program = capture(Layers(), (torch.randn(2, 4),))
    before = [str(node) for node in program.nodes]
    report = target("onnx").check(program)
    assert not report.ok
    assert {item.op for item in report.unsupported} >= {"special_i0"}
    group = next(items for (op, _, _), items in report.groups().items() if op == "special_i0")
    assert len(group) == 6
    assert all(item.source.startswith("test_target.py:") for item in group)
    text = str(report)
    assert "special_i0 x6: no emitter for this op" in text and "and 2 more" in text
    with pytest.raises(UnsupportedError, match="special_i0"):
        target("onnx").lower(program)
    assert [str(node) for node in program.nodes] == before


def test_report_of_a_supported_program() -> None:
    report = target("onnx").check(capture(torch.nn.Linear(4, 4), (torch.randn(2, 4),)))
    assert report.ok and str(report) == "onnx: 1 of 1 calls supported"
    report.raise_if_unsupported()


def test_dropout_in_training_mode_has_a_remedy() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5)).train()
    report = target("onnx").check(capture(model, (torch.randn(2, 4),)))
    assert [item.reason for item in report.unsupported] == ["dropout in training mode"]
    assert "model.eval()" in str(report)


@pytest.fixture
def own_target() -> Iterator[type[Target]]:
    @register_target("counting")
    @dataclass(frozen=True)
    class Counting(Target):
        limit: int = 3

        def supports(self, node: Node) -> Support:
            return Support.no("not a linear", remedy="none") if op_name(node) != "linear" else Support.yes()

        def emit(self, program: Any) -> Artifact:
            raise AssertionError("not reached")

        @classmethod
        def load(cls, folder: Path, manifest: Mapping[str, Any]) -> Artifact:
            raise AssertionError("not reached")

    yield Counting
    del registry._registered["counting"]


def test_a_target_of_ones_own(own_target: type[Target]) -> None:
    assert "counting" in target_names()
    mine = target("counting{limit=4}")
    assert mine == own_target(limit=4)
    assert str(mine) == "counting{limit=4}"
    report = mine.check(capture(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), (torch.randn(2, 4),)))
    assert [item.op for item in report.unsupported] == ["relu"]
    with pytest.raises(GraphwrightError, match="registered already"):
        register_target("onnx")(own_target)
