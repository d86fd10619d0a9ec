"""Folders for OpenVINO: `generate` with the cache inside the model gives the tokens of the original."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as t

import graphwright as gw
from graphwright.ir.errors import InputError

pytest.importorskip("openvino")

SMALL = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDE = {**SMALL, "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}  # fmt: skip


def llama() -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    return t.LlamaForCausalLM(t.LlamaConfig(**SMALL, **sizes, num_key_value_heads=1))


def gpt2() -> Any:
    return t.GPT2LMHeadModel(t.GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=2, n_positions=64))


def bart() -> Any:
    return t.BartForConditionalGeneration(t.BartConfig(**WIDE, decoder_start_token_id=2))


def t5() -> Any:
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "vocab_size": 60}
    return t.T5ForConditionalGeneration(t.T5Config(**sizes, decoder_start_token_id=0))


def whisper() -> Any:
    sizes = {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 32, "decoder_start_token_id": 1}
    config = t.WhisperConfig(**WIDE, **sizes, suppress_tokens=None, begin_suppress_tokens=None)
    return t.WhisperForConditionalGeneration(config)


def build(make: Any) -> Any:
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0 if parameter.dim() > 1 else 1.0)
    return model


def inputs_of(model: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    if model.main_input_name == "input_features":
        return {"input_features": torch.randn(3, 8, 32, generator=generator)}
    ids, mask = torch.randint(3, 60, (3, 9), generator=generator), torch.ones(3, 9, dtype=torch.long)
    mask[1, :4] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("make", [llama, gpt2, bart, t5, whisper])
def test_the_same_tokens(make, tmp_path):
    model, inputs = build(make), {}
    gw.export(model, tmp_path / "out", "openvino")
    loaded, inputs = gw.load_artifact(tmp_path / "out"), inputs_of(model)
    for options in ({}, {"num_beams": 3}):
        expected = model.generate(**inputs, max_new_tokens=12, do_sample=False, **options)
        actual = loaded.generate(**inputs, max_new_tokens=12, do_sample=False, **options)
        assert torch.equal(actual, expected), options


def test_an_encoder_and_a_decoder_are_two_files(tmp_path):
    gw.export(build(bart), tmp_path / "out", "openvino", verify=False)
    models = sorted(path.name for path in (tmp_path / "out").glob("*.xml"))
    assert models == ["openvino_decoder_model.xml", "openvino_encoder_model.xml"]
    decoder = gw.load_artifact(tmp_path / "out").bundle.parts["decoder_model"].model
    names = {port.get_any_name() for port in decoder.inputs}
    assert names == {"input_ids", "encoder_attention_mask", "encoder_hidden_states", "beam_idx"}
    assert len(decoder.get_sinks()) == 8


def test_precision_is_left_to_the_device_only_where_it_is_right(tmp_path):
    """A decoder whose variables start as something computed goes on in float32."""
    export = gw.export(build(bart), tmp_path / "out", "openvino")
    assert export.deployed["decoder_model"] < 0.02  # caches in 8 bits
    decoder = export.bundle.parts["decoder_model"].as_deployed()
    assert decoder.file.properties["INFERENCE_PRECISION_HINT"] == "f32"


def test_a_cache_that_was_replaced_is_refused(tmp_path):
    model = build(llama)
    gw.export(model, tmp_path / "out", "openvino", verify=False)
    loaded, ids = gw.load_artifact(tmp_path / "out"), torch.randint(3, 60, (1, 6))
    first = loaded(input_ids=ids)
    cropped = first.past_key_values
    cropped.crop(4)
    again = loaded(input_ids=ids[:, 4:], past_key_values=cropped, attention_mask=torch.ones(1, 6, dtype=torch.long))
    with torch.no_grad():
        torch.testing.assert_close(again.logits, model(ids).logits[:, 4:], rtol=1e-4, atol=1e-4)
    loaded(input_ids=ids)
    with pytest.raises(InputError, match="does not hold this cache"):
        loaded(input_ids=ids[:, :1], past_key_values=again.past_key_values)
