"""Artifacts as graphsurgeon graphs, and edits with a diff and a comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx_graphsurgeon")
pytest.importorskip("onnxruntime")

import graphwright as gw
from graphwright.ir.errors import GraphwrightError, InputError, MismatchError


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.nn.functional.gelu(self.first(x)) * 3)


@pytest.fixture(scope="module")
def artifact() -> Any:
    torch.manual_seed(0)
    return gw.target("onnx").lower(gw.capture(Model().eval(), (torch.randn(2, 4),)))


def test_there_and_back_changes_nothing(artifact: Any) -> None:
    graph = gw.onnx.to_graphsurgeon(artifact)
    again = gw.onnx.from_graphsurgeon(graph, artifact)
    assert gw.compare(artifact, again).largest_difference == 0
    assert [value.name for value in graph.outputs] == list(artifact.output_names)


def test_a_right_edit_shows_in_the_diff(artifact: Any) -> None:
    def drop_default(graph: Any) -> None:
        for node in graph.nodes:
            if node.op == "Gelu":
                node.attrs.clear()

    edited = gw.onnx.edit(artifact, drop_default)
    text = str(edited.diff)
    assert text.count("Gelu(") == 2 and "MatMul" not in text
    assert edited.comparison is not None and edited.comparison.largest_difference == 0


def test_a_wrong_edit_is_an_error(artifact: Any) -> None:
    def scale(graph: Any) -> None:
        for node in graph.nodes:
            if node.op == "Mul":
                node.op = "Add"

    with pytest.raises(MismatchError):
        gw.onnx.edit(artifact, scale)
    assert gw.onnx.edit(artifact, scale, verify=False).comparison is None


def test_an_edit_that_raises_is_named(artifact: Any) -> None:
    def broken(graph: Any) -> None:
        raise KeyError("x")

    with pytest.raises(GraphwrightError, match=r"broken[\s\S]*KeyError"):
        gw.onnx.edit(artifact, broken)


def test_lost_outputs_are_refused(artifact: Any) -> None:
    def lose(graph: Any) -> None:
        graph.outputs = []

    with pytest.raises(InputError, match="without output"):
        gw.onnx.edit(artifact, lose)


def test_four_bit_constants_are_packed(artifact: Any) -> None:
    """graphsurgeon alone writes one byte for each item, which the format does not allow."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    import onnx_graphsurgeon as surgeon

    def add_constant(graph: Any) -> None:
        codes = surgeon.Constant("codes", np.array([1, -2, 3, 7, -8], dtype=ml_dtypes.int4))
        scale = surgeon.Constant("scale", np.array(0.5, np.float32))
        (output,) = graph.outputs
        plain = surgeon.Variable("plain", np.float32)
        for node in graph.nodes:
            node.outputs = [plain if value is output else value for value in node.outputs]
        values, total = surgeon.Variable("values", np.float32), surgeon.Variable("total", np.float32)
        graph.nodes.append(surgeon.Node("DequantizeLinear", inputs=[codes, scale], outputs=[values]))
        graph.nodes.append(surgeon.Node("ReduceSum", attrs={"keepdims": 0}, inputs=[values], outputs=[total]))
        graph.nodes.append(surgeon.Node("Add", inputs=[plain, total], outputs=[output]))

    x = torch.randn(2, 4)
    edited = gw.onnx.edit(artifact, add_constant, verify=False).artifact
    torch.testing.assert_close(edited.run(x=x)["output"], artifact.run(x=x)["output"] + 0.5)
