"""Targets of fixed sizes: buckets are chosen, inputs padded, outputs cut; the results are the model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTModel,
)

import graphwright as gw
from graphwright.frontends.parts import parts
from graphwright.ir.errors import GraphwrightError, InputError
from graphwright.ir.program import Program
from graphwright.lowering.artifact import Artifact, load_artifact
from graphwright.lowering.buckets import parse_sizes
from graphwright.lowering.compare import compare
from graphwright.lowering.eager.target import EagerTarget
from graphwright.lowering.registry import register_target
from graphwright.lowering.static import StaticTarget

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}


@register_target("static-eager", replace=True)
@dataclass(frozen=True)
class StaticEager(StaticTarget):
    """Fixed sizes, run by PyTorch."""

    name: ClassVar[str] = "static-eager"

    def emit(self, program: Program) -> Artifact:
        assert not program.dims
        return EagerTarget().emit(program)

    @classmethod
    def load_bucket(cls, folder: Path, entry: Mapping[str, Any]) -> Artifact:
        return EagerTarget.load(folder, entry)


def scaled(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model.eval().double()


def test_an_encoder_in_buckets():
    torch.manual_seed(0)
    model = scaled(BertModel(BertConfig(**SIZES)))
    artifact = StaticEager(sizes="batch:1+4/sequence:8+32").lower(gw.capture(model))
    result = compare(model, artifact)
    assert result.largest_difference < 1e-10
    cases = {row.case for row in result.rows if not row.skipped}
    assert {"left padding", "right padding", "scattered padding", "batch=1", "sequence=1"} <= cases
    assert artifact.part_for({port.name: torch.ones(2, 9).long() for port in artifact.interface.inputs}) == (
        "batch4_sequence32"
    )
    with pytest.raises(InputError, match="allowed are 1 to 32"):
        artifact.run(**{port.name: torch.ones(1, 33).long() for port in artifact.interface.inputs})


def llama() -> torch.nn.Module:
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def gpt2() -> torch.nn.Module:
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=2, n_layer=1, vocab_size=50))


@pytest.mark.parametrize("model", [llama, gpt2])
def test_a_decoder_with_a_cache(model):
    torch.manual_seed(0)
    model = scaled(model())
    program = parts(model, "text-generation-with-past")[0].capture()
    artifact = StaticEager(sizes="batch:2/sequence:1+12/past_sequence:0+16").lower(program)
    result = compare(model, artifact)
    assert result.largest_difference < 1e-10
    assert {"left padding", "past_sequence_length=0", "sequence_length=1"} <= {
        row.case for row in result.rows if not row.skipped
    }


def test_caches_are_not_padded_where_the_model_counts_positions():
    torch.manual_seed(0)
    model = scaled(gpt2())
    program = gw.capture(model, task="text-generation-with-past")
    artifact = StaticEager(sizes="batch:2/sequence:1/past_sequence:4+16").lower(program)
    assert artifact.interface.dims["past_sequence"].only == (4, 16)
    assert compare(model, artifact).largest_difference < 1e-10


def test_without_a_mask_only_the_batch_is_padded():
    torch.manual_seed(0)
    model = scaled(
        ViTModel(ViTConfig(image_size=16, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    )
    artifact = StaticEager(sizes="batch:4").lower(gw.capture(model))
    assert compare(model, artifact).largest_difference < 1e-10
    mean = gw.capture(Mean().eval(), {"x": torch.rand(2, 6)}, dynamic={"x": {0: "batch", 1: "length"}})
    fixed = StaticEager(sizes="batch:2/length:4+8").lower(mean)
    assert compare(Mean(), fixed).ok
    with pytest.raises(InputError, match="allowed are 4 or 8"):
        fixed.run(x=torch.rand(2, 6))


class Mean(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(-1)


def test_saved_buckets_load(tmp_path):
    torch.manual_seed(0)
    model = scaled(BertModel(BertConfig(**SIZES)))
    artifact = StaticEager(sizes="sequence:8+32").lower(gw.capture(model))
    loaded = load_artifact(artifact.save(tmp_path / "artifact"))
    assert loaded.sizes == artifact.sizes
    assert compare(model, loaded).largest_difference < 1e-10


def test_sizes_are_checked():
    assert parse_sizes("batch:1/sequence:64+128") == {"batch": (1,), "sequence": (64, 128)}
    with pytest.raises(GraphwrightError, match="write sizes="):
        parse_sizes("sequence=64")
    program = gw.capture(BertModel(BertConfig(**SIZES)).eval())
    assert StaticEager(sizes="sequence:8/decoder_sequence:1").fixed(program), "another part has that dimension"
    with pytest.raises(GraphwrightError, match="no dimension 'length'"):
        StaticEager(sizes="length:8").lower(program)
