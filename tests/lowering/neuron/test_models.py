"""Models lowered for Neuron and run on XLA's CPU client, against the originals: several lengths, paddings, buckets."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("jax")

import graphwright as gw  # noqa: E402
from graphwright.lowering.artifact import load_artifact  # noqa: E402

TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 50}


def scaled(model: torch.nn.Module, factor: float = 3.0) -> torch.nn.Module:
    """Weights large enough for errors to show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    return model.eval()


def bert() -> torch.nn.Module:
    torch.manual_seed(0)
    return scaled(transformers.BertModel(transformers.BertConfig(**TEXT)))


@pytest.mark.parametrize("variant", ["reference", "neuron"])
def test_an_encoder_in_buckets(variant, tmp_path):
    """The `neuron` variant runs with the bodies of its calls in their places."""
    model = bert()
    artifact = gw.target(f"neuron{{sizes=batch:4/sequence:8+32,variant={variant}}}").lower(gw.capture(model))
    result = gw.compare(model, artifact)
    cases = {row.case for row in result.rows if not row.skipped}
    assert {"left padding", "right padding", "scattered padding", "batch=1", "sequence=1"} <= cases
    texts = {part.emitted.bytecode.count(b"AwsNeuronSoftmax") > 0 for part in artifact.parts.values()}
    assert texts == {variant == "neuron"}
    loaded = load_artifact(artifact.save(tmp_path / "out"))
    assert loaded.sizes == artifact.sizes
    assert gw.compare(model, loaded).ok
