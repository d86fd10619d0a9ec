"""Weights in ONNX files: stored once, transposed where nothing else reads them, beside the model where large."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from graphwright.frontends.capture import capture
from graphwright.lowering.artifact import load_artifact
from graphwright.lowering.compare import compare
from graphwright.lowering.onnx.artifact import OnnxArtifact
from graphwright.lowering.registry import target


class Tied(torch.nn.Module):
    """An embedding whose table is the weight of the output layer, as in language models."""

    def __init__(self, tie: bool) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(50, 16)
        self.inner = torch.nn.Linear(16, 16)
        self.head = torch.nn.Linear(16, 50, bias=False)
        if tie:
            self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(self.table(ids)))


def stored(artifact: OnnxArtifact) -> dict[str, int]:
    return {name: value.const_value.nbytes for name, value in artifact.model.graph.initializers.items()}


@pytest.mark.parametrize("tie", [True, False])
def test_tied_weights_are_stored_once(tie: bool) -> None:
    model = Tied(tie)
    artifact = target("onnx").lower(capture(model, (torch.randint(0, 50, (2, 7)),)))
    assert sum(stored(artifact).values()) == 4 * (50 * 16 * (1 if tie else 2) + 16 * 16 + 16)
    assert ("head.weight.T" in stored(artifact)) == (not tie)
    assert "inner.weight.T" in stored(artifact)
    compare(model, artifact)


def test_weights_are_read_from_the_models_memory() -> None:
    model = Tied(tie=True)
    artifact = target("onnx").lower(capture(model, (torch.randint(0, 50, (2, 7)),)))
    tensors = [value.const_value.raw for value in artifact.model.graph.initializers.values()]
    assert model.table.weight.data_ptr() in {tensor.data_ptr() for tensor in tensors}
    assert model.inner.weight.data_ptr() in {tensor.data_ptr() for tensor in tensors}


class Packed(torch.nn.Module):
    """Weight expressions, as passes leave them: three weights packed into one."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (torch.nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = (self.q, self.k, self.v)
        weight, bias = torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])
        return torch.nn.functional.linear(x, weight, bias)


def test_weight_expressions_are_folded() -> None:
    model = Packed()
    artifact = target("onnx").lower(capture(model, (torch.randn(2, 5, 8),)))
    assert [node.op_type for node in artifact.model.graph] == ["MatMul", "Add"]
    assert sorted(stored(artifact).values()) == [3 * 8 * 4, 3 * 8 * 8 * 4]
    compare(model, artifact)


def test_large_weights_go_beside_the_model(tmp_path: Path) -> None:
    model = Tied(tie=True)
    artifact = target("onnx{external_bytes=2000}").lower(capture(model, (torch.randint(0, 50, (2, 7)),)))
    folder = artifact.save(tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx", "model.onnx.data"]
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    loaded = load_artifact(folder)
    compare(model, loaded)
    again = loaded.save(tmp_path / "copy")
    assert (again / "model.onnx.data").read_bytes() == (folder / "model.onnx.data").read_bytes()
    compare(model, load_artifact(again))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.LayerNorm(32)).to(dtype)
    artifact = target("onnx").lower(capture(model, (torch.randn(2, 5, 16, dtype=dtype),)))
    assert artifact.interface.inputs[0].dtype == str(dtype).removeprefix("torch.")
    compare(model, artifact, **({"rtol": 1e-6} if dtype is torch.float64 else {}))


def test_bfloat16_in_and_out() -> None:
    """ONNX Runtime's processor kernels know few bfloat16 operators; casts are among them."""

    class Widen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.randn(4).bfloat16())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.float() * self.scale.float()).bfloat16()

    model = Widen()
    artifact = target("onnx").lower(capture(model, (torch.randn(3, 4).bfloat16(),)))
    compare(model, artifact)


def test_an_input_may_have_the_name_of_a_weight() -> None:
    class Scale(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.randn(4))

        def forward(self, scale: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"add": self.scale * scale + 1, "mul": self.scale + scale}

    model = Scale()
    artifact = target("onnx").lower(capture(model, (torch.randn(3, 4),)))
    assert artifact.input_names == ("scale",) and artifact.output_names == ("add", "mul")
    compare(model, artifact)
