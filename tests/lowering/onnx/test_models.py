"""Whole models on ONNX Runtime against the unmodified transformers model.

Float32 with scaled weights: the measured differences are below 1e-6 of the largest output, except where T5's
unscaled attention and CLIP's similarities multiply them (below 2e-5), which is what `compare` allows by default.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest

from graphwright.frontends.capture import capture
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.compare import compare
from graphwright.lowering.registry import target
from graphwright.passes.pipeline import Pipeline


def operators(artifact: Artifact) -> Counter[str]:
    return Counter(node.op_type for node in artifact.model.graph)


def checked(artifact: Artifact, folder: Path) -> Artifact:
    """The artifact, after ONNX's own checker and full shape inference have accepted its file."""
    onnx.checker.check_model(str(artifact.save(folder) / "model.onnx"), full_check=True)
    return artifact


def test_as_exported(model_name: str, attention: str, exported, tmp_path: Path) -> None:
    model, program = exported(model_name, attention)
    artifact = checked(target("onnx").lower(program), tmp_path / "out")
    assert (operators(artifact)["Attention"] > 0) == (attention == "sdpa")
    result = compare(model, artifact)
    assert len({row.case for row in result.rows if not row.skipped}) >= 4
    padded = {"attention_mask"} & set(artifact.input_names)
    assert {"right padding", "left padding", "scattered padding"} <= {row.case for row in result.rows} or not padded


def test_with_fused_attention(model_name: str, exported, tmp_path: Path) -> None:
    model, program = exported(model_name, "eager")
    softmaxes = sum("softmax" in str(node.target) for node in program.nodes)
    fused = Pipeline("canonicalize,fuse-attention").run(program).program
    artifact = checked(target("onnx").lower(fused), tmp_path / "out")
    assert operators(artifact)["Attention"] == softmaxes > 0
    compare(model, artifact)


@pytest.mark.parametrize("opset", [18, 20, 21, 24])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_opsets(name: str, opset: int, exported, tmp_path: Path) -> None:
    model, program = exported(name, "sdpa")
    artifact = checked(target(f"onnx{{opset={opset}}}").lower(program), tmp_path / "out")
    assert (operators(artifact)["Attention"] > 0) == (opset >= 23)
    compare(model, artifact)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_decoder_with_cache(name: str, zoo, tmp_path: Path) -> None:
    model = zoo.build(name, "sdpa")
    program = capture(model, task="text-generation-with-past")
    artifact = checked(target("onnx").lower(program), tmp_path / "out")
    layers = [f"{i}.{part}" for i in range(2) for part in ("key", "value")]
    assert set(artifact.input_names) >= {"input_ids", "attention_mask", *(f"past_key_values.{part}" for part in layers)}
    assert set(artifact.output_names) == {"logits", *(f"present.{part}" for part in layers)}
    cases = {row.case for row in compare(model, artifact).rows}
    assert {"past_sequence=0", "past_sequence=1", "sequence=1", "left padding"} <= cases


def test_dimensions_have_names(zoo) -> None:
    artifact = target("onnx").lower(capture(zoo.build("bert", "sdpa")))
    model = artifact.model
    assert list(map(str, model.graph.inputs[0].shape)) == ["batch", "sequence"]
    assert str(model.graph.outputs[0].shape[1]) == "sequence"
    assert artifact.output_names == ("last_hidden_state", "pooler_output")


def test_operators_lead_back_to_the_program(exported) -> None:
    _, program = exported("bert", "sdpa")
    artifact = target("onnx").lower(program)
    names = [node.name for node in artifact.model.graph]
    assert len(set(names)) == len(names)
    emitted = {name for operators in artifact.provenance.values() for name in operators}
    assert emitted == {node.name for node in artifact.model.graph if "graphwright.node" in node.metadata_props}
    attention = next(node for node in artifact.model.graph if node.op_type == "Attention")
    assert attention.metadata_props["namespace"].endswith("attention.self")
    assert attention.metadata_props["source"].startswith("modeling_bert.py:")


def test_graph_is_small(exported) -> None:
    """Sizes are read once, nothing is transposed at run time, and weights are stored once."""
    _, program = exported("bert", "sdpa")
    artifact = target("onnx").lower(program)
    count = operators(artifact)
    assert count["Shape"] <= 4
    assert count["Transpose"] == 0
    stored = sum(value.const_value.nbytes for value in artifact.model.graph.initializers.values())
    assert stored <= program.state_bytes() + 4096
