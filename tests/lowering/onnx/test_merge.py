"""Both programs of a decoder in one file."""

from __future__ import annotations

from collections import Counter

import onnx
import torch

from graphwright.frontends.parts import parts
from graphwright.lowering.bundle import Bundle, load_bundle
from graphwright.lowering.compare import compare
from graphwright.lowering.registry import target

TASK = "text2text-generation-with-past"


def test_merged_decoder(zoo, tmp_path) -> None:
    """One `If`, each weight once, and both branches compute what the model does."""
    model = zoo.build("bart", "sdpa")
    pieces = {part.name: part for part in parts(model)}
    goal = target("onnx")
    apart = {name: goal.lower(part.capture()) for name, part in pieces.items()}
    folder = Bundle(TASK, goal.join(apart)).save(tmp_path / "out")
    assert sorted(path.name for path in folder.glob("*.onnx")) == ["decoder_model_merged.onnx", "encoder_model.onnx"]
    onnx.checker.check_model(str(folder / "decoder_model_merged.onnx"), full_check=True)

    merged = onnx.load(folder / "decoder_model_merged.onnx")
    assert Counter(node.op_type for node in merged.graph.node) == {"If": 1}
    matrices = [weight.raw_data for weight in merged.graph.initializer if len(weight.dims) == 2]
    assert len(matrices) == len(set(matrices)) > 20
    names = [value.name for value in merged.graph.input]
    assert names[-3:] == ["past_key_values.1.encoder.key", "past_key_values.1.encoder.value", "use_cache_branch"]
    assert names[names.index("past_key_values.0.decoder.key") :][:4] == [
        f"past_key_values.0.{side}.{part}" for side in ("decoder", "encoder") for part in ("key", "value")
    ]

    loaded = load_bundle(folder)
    first, later = loaded.parts["decoder_model"], loaded.parts["decoder_with_past_model"]
    assert first.file is later.file
    for name, part in loaded.parts.items():
        cases = {row.case for row in compare(pieces[name].module, part).rows}
        assert name != "decoder_with_past_model" or "past_decoder_sequence_length=0" in cases


def test_encoder_states_are_not_copied(zoo) -> None:
    model = zoo.build("t5", "eager")
    goal = target("onnx")
    apart = {part.name: goal.lower(part.capture()) for part in parts(model) if part.name != "encoder_model"}
    later = goal.join(apart)["decoder_with_past_model"]
    inputs = {
        port.name: torch.ones([2 if isinstance(size, str) else size for size in port.shape], dtype=port.torch_dtype())
        for port in later.interface.inputs
    }
    outputs = later.run(**inputs)
    assert outputs["present.1.encoder.key"] is inputs["past_key_values.1.encoder.key"]
    assert outputs["present.1.decoder.key"].shape[2] == 4
