"""Exported folders in optimum-onnx's `ORTModelForX`, in an environment of its own.

`GRAPHWRIGHT_OPTIMUM_PYTHON` names the interpreter of an environment with `optimum[onnxruntime]`.
"""

import os
import subprocess

import numpy as np
import pytest
import torch

import graphwright as gw

PYTHON = os.environ.get("GRAPHWRIGHT_OPTIMUM_PYTHON", "")
SCRIPT = """
import sys, numpy, torch
from optimum import onnxruntime
name, folder, inputs, results, beams = sys.argv[1:]
model = getattr(onnxruntime, name).from_pretrained(folder, use_io_binding=False)
given = {key: torch.from_numpy(value) for key, value in numpy.load(inputs).items()}
if int(beams):
    found = {"tokens": model.generate(**given, max_new_tokens=8, do_sample=False, num_beams=int(beams))}
else:
    found = {key: value for key, value in model(**given).items() if isinstance(value, torch.Tensor)}
numpy.savez(results, **{key: value.numpy() for key, value in found.items()})
"""
SMALL = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LAYER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
WIDE = {**SMALL, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}  # fmt: skip
HEARING = {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 32, "decoder_start_token_id": 1,
           "suppress_tokens": None, "begin_suppress_tokens": None}  # fmt: skip
WAVES = {**SMALL, **LAYER, "conv_dim": (8, 8), "conv_stride": (5, 2), "conv_kernel": (10, 3),
         "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}  # fmt: skip
CASES = [
    ("ORTModelForFeatureExtraction", "BertModel", {**SMALL, **LAYER}),
    ("ORTModelForSequenceClassification", "BertForSequenceClassification", {**SMALL, **LAYER}),
    ("ORTModelForImageClassification", "ViTForImageClassification", {**LAYER, "image_size": 16, "patch_size": 4}),
    ("ORTModelForAudioClassification", "Wav2Vec2ForSequenceClassification", WAVES),
    ("ORTModelForCTC", "Wav2Vec2ForCTC", WAVES),
    ("ORTModelForCausalLM", "GPT2LMHeadModel", {**SMALL, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}),
    ("ORTModelForCausalLM", "LlamaForCausalLM", {**SMALL, **LAYER, "num_key_value_heads": 1}),
    ("ORTModelForSeq2SeqLM", "BartForConditionalGeneration", {**WIDE, "decoder_start_token_id": 2}),
    ("ORTModelForSpeechSeq2Seq", "WhisperForConditionalGeneration", {**WIDE, **HEARING}),
]


def build(name, config):
    import transformers

    torch.manual_seed(0)
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)
    return model


def inputs(model):
    torch.manual_seed(1)
    if model.main_input_name == "input_ids":
        mask = torch.ones(3, 7, dtype=torch.long)
        mask[1, :3] = 0
        return {"input_ids": torch.randint(3, 60, (3, 7)), "attention_mask": mask}
    shapes = {"pixel_values": (3, 3, 16, 16), "input_values": (3, 400), "input_features": (3, 8, 32)}
    return {model.main_input_name: torch.randn(shapes[model.main_input_name])}


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason="GRAPHWRIGHT_OPTIMUM_PYTHON names no environment with optimum-onnx")
@pytest.mark.parametrize(("loader", "name", "config"), CASES, ids=[case[1] for case in CASES])
def test_loads_in_optimum(loader, name, config, tmp_path):
    """Same outputs up to rounding, and the same tokens, greedy and with beams."""
    model = build(name, config)
    gw.export(model, tmp_path / "out")
    given = inputs(model)
    np.savez(tmp_path / "in.npz", **{key: value.numpy() for key, value in given.items()})
    for beams in (1, 3) if model.can_generate() else (0,):
        words = [PYTHON, "-c", SCRIPT, loader, tmp_path / "out", tmp_path / "in.npz", tmp_path / "r.npz", str(beams)]
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(words, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        found = np.load(tmp_path / "r.npz")
        if beams:
            expected = model.generate(**given, max_new_tokens=8, do_sample=False, num_beams=beams)
            assert np.array_equal(found["tokens"], expected.numpy())
            continue
        with torch.no_grad():
            expected = model(**given)
        for key in found.files:
            np.testing.assert_allclose(found[key], expected[key].numpy(), rtol=1e-4, atol=1e-4)
