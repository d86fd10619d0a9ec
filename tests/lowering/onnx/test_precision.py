"""Half precision and 8-bit integers on ONNX Runtime, against the unmodified float32 model.

Tiny models with weights scaled by 2. A float16 value has 11 significant bits (5e-4), bfloat16 8 (4e-3), and int8
products have 255 steps per row; the relative errors measured are below 5e-4, 5e-3 and 2e-2, and four times as much
is allowed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from safetensors.torch import save_file

from graphwright.frontends.capture import capture
from graphwright.ir.errors import FileFormatError, GraphwrightError, MismatchError
from graphwright.lowering.accuracy import accuracy
from graphwright.lowering.artifact import load_artifact
from graphwright.lowering.interface import Interface
from graphwright.lowering.registry import target

ALLOWED = {"float16": 2e-3, "bfloat16": 2e-2, "int8": 8e-2}


def lowered(zoo, name: str, spec: str, task: str | None = None) -> tuple[Any, Any, Interface]:
    model = zoo.build(name, "eager", scale=2.0)
    program = capture(model, task=task)
    return model, target(spec).lower(program), Interface.of(program)


def counts(artifact: Any) -> Counter[str]:
    return Counter(node.op_type for node in artifact.model.graph)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("name", "task"), [("bert", None), ("llama", "text-generation-with-past")])
def test_half(zoo, name: str, task: str | None, dtype: str) -> None:
    model, artifact, exact = lowered(zoo, name, f"onnx{{dtype={dtype}}}", task)
    found = accuracy(model, artifact.runnable(), exact, dtype)
    assert 1e-5 < max(error.relative for error in found.errors) < ALLOWED[dtype], found
    stored = Counter(v.dtype for v in artifact.model.graph.initializers.values() if len(v.shape or ()) == 2)
    assert stored[ir.DataType.FLOAT] == 0 and stored[getattr(ir.DataType, dtype.upper())] > 0
    states = {port.dtype for port in artifact.interface.inputs if port.name.startswith("past_key_values")}
    assert states <= {dtype}


def test_kept_operators_stay_in_float32(zoo) -> None:
    for keep, expected in (("", 0), ("MatMul+Gemm+Attention", 1)):
        _, artifact, _ = lowered(zoo, "bert", f"onnx{{dtype=float16,keep={keep}}}" if keep else "onnx{dtype=float16}")
        products = [node for node in artifact.model.graph if node.op_type == "MatMul"]
        assert {node.inputs[0].dtype == ir.DataType.FLOAT for node in products} == {bool(expected)}
        norms = [node for node in artifact.model.graph if node.op_type == "LayerNormalization"]
        assert {node.inputs[0].dtype for node in norms} == {ir.DataType.FLOAT}


def test_positions_keep_their_precision() -> None:
    """Angles of positions that float16 does not have, such as 2049."""

    class Angles(torch.nn.Module):
        def forward(self, positions: torch.Tensor) -> torch.Tensor:
            return (positions.float() * 1.0).cos() * torch.ones(3, 1)

    positions = torch.tensor([2047, 2049, 4095])
    artifact = target("onnx{dtype=float16}").lower(capture(Angles(), (positions,), dynamic=None))
    torch.testing.assert_close(artifact.run(positions=positions)["output"], Angles()(positions), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "task"), [("bert", None), ("gpt2", "text-generation-with-past")])
def test_dynamic_integers(zoo, name: str, task: str | None, tmp_path: Path) -> None:
    model, artifact, exact = lowered(zoo, name, "onnx{int8=dynamic}", task)
    plain = target("onnx").lower(capture(model, task=task))
    assert counts(artifact)["MatMulInteger"] > 0 and counts(artifact)["MatMul"] < counts(plain)["MatMul"]
    found = accuracy(model, artifact, exact, "int8")
    assert 1e-5 < max(error.relative for error in found.errors) < ALLOWED["int8"], found
    sizes = [sum(v.const_value.nbytes for v in made.model.graph.initializers.values()) for made in (artifact, plain)]
    assert sizes[0] < 0.85 * sizes[1]  # BERT's embeddings stay, GPT-2's are its head
    inputs = {p.name: torch.ones([2 if isinstance(s, str) else s for s in p.shape], dtype=p.torch_dtype()) for p in
              artifact.interface.inputs if p.name != "attention_mask"}  # fmt: skip
    inputs["attention_mask"] = torch.ones(2, 4 if task else 2, dtype=torch.int64)
    expected = artifact.run(**inputs)
    for key, value in load_artifact(artifact.save(tmp_path / "out")).run(**inputs).items():
        assert torch.equal(value, expected[key])


def test_static_integers(zoo, tmp_path: Path) -> None:
    inputs = {key: value for key, value in zoo.make_inputs("bert", 8, 9).items() if key != "use_cache"}
    save_file(inputs, tmp_path / "inputs.safetensors")
    spec = f"onnx{{int8=static,calibration={tmp_path}/inputs.safetensors}}"
    model, artifact, exact = lowered(zoo, "bert", spec)
    found = accuracy(model, artifact, exact, "int8")
    assert 1e-5 < max(error.relative for error in found.errors) < ALLOWED["int8"], found
    assert counts(artifact)["QuantizeLinear"] > 0 and counts(artifact)["DynamicQuantizeLinear"] == 0


def test_calibration_inputs_must_fit(zoo, tmp_path: Path) -> None:
    save_file({"other": torch.ones(2, 3)}, tmp_path / "inputs.safetensors")
    for name, text in (("inputs", "lack 'input_ids'"), ("missing", "tensors cannot be read")):
        with pytest.raises(FileFormatError, match=text):
            lowered(zoo, "bert", f"onnx{{int8=static,calibration={tmp_path}/{name}.safetensors}}")


@pytest.mark.parametrize(
    "spec", ["onnx{dtype=float8}", "onnx{int8=static}", "onnx{int8=dynamic,dtype=float16}", "onnx{dialect=trt}"]
)
def test_options_that_do_not_exist(spec: str) -> None:
    with pytest.raises(GraphwrightError):
        target(spec)


def test_a_wrong_model_is_refused(zoo) -> None:
    _, artifact, exact = lowered(zoo, "bert", "onnx{dtype=float16}")
    other = zoo.build("bert", "eager", scale=3.0)
    found = accuracy(other, artifact, exact, "float16")
    with pytest.raises(MismatchError, match="too far"):
        found.raise_if_wrong()
    assert replace(found, limit=10.0).ok
