"""Folders for OpenVINO: `generate` with the cache inside the model gives the tokens of the original.

So do optimum-intel's classes and OpenVINO GenAI, where `GRAPHWRIGHT_OPTIMUM_INTEL_PYTHON` names the interpreter of an
environment with `optimum-intel[openvino]` and `openvino-genai`.
"""

from __future__ import annotations

import os
import subprocess
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t

import graphwright as gw
from graphwright.ir.errors import InputError

pytest.importorskip("openvino")
slow = pytest.mark.slow

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


@pytest.mark.parametrize("make", [whisper, pytest.param(bart, marks=slow), pytest.param(t5, marks=slow)])
def test_texts_of_the_same_sizes_in_the_precision_that_the_device_chooses(make, tmp_path):
    """Inputs of each text are in other memory; bfloat16 and its cache of 16 bits cost up to 2% of the largest logit."""
    model = build(make)
    export = gw.export(model, tmp_path / "out", "openvino", verify=False)
    exact = export.bundle.parts["decoder_model"]
    deployed = exact.as_deployed()
    for seed in range(6):
        inputs = texts(exact, seed)
        with torch.no_grad():
            expected, actual = exact.run(**inputs), deployed.run(**inputs)
        for name, value in expected.items():
            difference = (actual[name] - value).norm() / value.norm()
            assert difference < 0.05, (seed, name)


@pytest.mark.parametrize(("make", "weights", "error"), [pytest.param(t5, "i8", 0.05, marks=slow), (whisper, "u4", 0.2)])
def test_encoder_decoders_with_compressed_weights(make, weights, error, tmp_path):
    """What is generated is what the model says for the whole text at once; that is as far from float as its weights."""
    model = build(make)
    gw.export(model, tmp_path / "out", f"openvino{{weights={weights}}}", verify=False)
    loaded, inputs = gw.load_artifact(tmp_path / "out"), inputs_of(model)
    tokens = loaded.generate(**inputs, max_new_tokens=10, min_new_tokens=10, do_sample=False)
    with torch.no_grad():
        expected = model(**inputs, decoder_input_ids=tokens).logits
    logits = loaded(**inputs, decoder_input_ids=tokens).logits
    assert 0 < float((logits - expected).norm() / expected.norm()) < error
    logits[..., 2] = -torch.inf  # `min_new_tokens` forbids the end
    assert torch.equal(logits[:, :-2].argmax(-1), tokens[:, 1:-1])  # the last token may be forced


def texts(decoder: Any, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    known = {
        "input_ids": torch.randint(3, 60, (2, 5), generator=generator),
        "encoder_hidden_states": torch.randn(2, 16, 32, generator=generator),
        "encoder_attention_mask": torch.ones(2, 16, dtype=torch.long),
    }
    return {name: known[name] for name in decoder.input_names}


def test_both_steps_of_a_decoder_are_configured_together(tmp_path):
    model = build(bart)
    gw.export(model, tmp_path / "out", "openvino", verify=False)
    loaded = gw.load_artifact(tmp_path / "out").configure(device="CPU", INFERENCE_PRECISION_HINT="f32")
    expected = model.generate(**inputs_of(model), max_new_tokens=6, do_sample=False)
    assert torch.equal(loaded.generate(**inputs_of(model), max_new_tokens=6, do_sample=False), expected)
    parts = loaded.bundle.parts
    assert parts["decoder_with_past_model"].request is parts["decoder_model"].request
    compiled = parts["decoder_model"].request.get_compiled_model()
    assert compiled.get_property("KV_CACHE_PRECISION").get_type_name() == "f16"  # as the file says


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


PYTHON = os.environ.get("GRAPHWRIGHT_OPTIMUM_INTEL_PYTHON", "")
EXACT = '{"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}'
SCRIPT = f"""
import sys, numpy, torch
from optimum import intel
name, folder, inputs, results, beams = sys.argv[1:]
model = getattr(intel, name).from_pretrained(folder, ov_config={EXACT})
given = {{key: torch.from_numpy(value) for key, value in numpy.load(inputs).items()}}
tokens = model.generate(**given, max_new_tokens=8, do_sample=False, num_beams=int(beams))
numpy.savez(results, tokens=tokens.numpy())
"""
GENAI = f"""
import sys, numpy, openvino_genai
folder, inputs, results = sys.argv[1:]
pipe = openvino_genai.LLMPipeline(folder, "CPU", **{EXACT})
config = openvino_genai.GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=2)
import openvino
ids = numpy.load(inputs)["input_ids"]
found = pipe.generate(openvino.Tensor(numpy.ascontiguousarray(ids)), config)
numpy.savez(results, tokens=numpy.array(found.tokens[0]))
"""
CASES = [
    ("OVModelForCausalLM", llama),
    ("OVModelForCausalLM", gpt2),
    ("OVModelForSeq2SeqLM", bart),
    ("OVModelForSeq2SeqLM", t5),
    ("OVModelForSpeechSeq2Seq", whisper),
]

peer = pytest.mark.skipif(not PYTHON, reason="GRAPHWRIGHT_OPTIMUM_INTEL_PYTHON names no interpreter")


def run(script, *words):
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([PYTHON, "-c", script, *map(str, words)], env=clean, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-2000:]


@peer
@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(("name", "make"), CASES, ids=lambda case: getattr(case, "__name__", case))
def test_optimum_intel_generates_the_same_tokens(name, make, beams, tmp_path):
    model = build(make)
    gw.export(model, tmp_path / "out", "openvino", verify=False)
    inputs = inputs_of(model)
    np.savez(tmp_path / "inputs.npz", **{key: value.numpy() for key, value in inputs.items()})
    run(SCRIPT, name, tmp_path / "out", tmp_path / "inputs.npz", tmp_path / "results.npz", beams)
    expected = model.generate(**inputs, max_new_tokens=8, do_sample=False, num_beams=beams)
    assert np.load(tmp_path / "results.npz")["tokens"].tolist() == expected.tolist()


@peer
@pytest.mark.slow
def test_openvino_genai_generates_the_same_tokens(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    model = build(llama)
    words = Tokenizer(models.WordLevel({f"word{i}": i for i in range(60)}, unk_token="word0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    model.save_pretrained(tmp_path / "source")
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="word2").save_pretrained(tmp_path / "source")
    loaded = type(model).from_pretrained(tmp_path / "source").eval()
    gw.export(loaded, tmp_path / "out", "openvino", verify=False)
    ids = torch.randint(3, 60, (1, 9), generator=torch.Generator().manual_seed(1))
    np.savez(tmp_path / "inputs.npz", input_ids=ids.numpy())
    run(GENAI, tmp_path / "out", tmp_path / "inputs.npz", tmp_path / "results.npz")
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)[0, 9:]
    assert np.load(tmp_path / "results.npz")["tokens"].tolist() == expected.tolist()
