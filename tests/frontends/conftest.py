"""Tiny models with large weights, and their captures, each made once."""

from __future__ import annotations

import importlib
from functools import cache

import pytest
import torch

WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = {**WIDTHS, "vocab_size": 99}
BOTH = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 99,
}  # fmt: skip
IMAGE = {"image_size": 32, "patch_size": 8}
EARS = {"conv_dim": [16] * 3, "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 2], "num_feat_extract_layers": 3}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1}

DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 99}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99, "bos_token_id": 0, "eos_token_id": 0}
OPT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "vocab_size": 99}
T5 = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 64, "vocab_size": 99, **ENDS}
CONVOLUTION = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
LISTENER = {**BOTH, **ENDS, "max_source_positions": 30, "max_target_positions": 40, "num_mel_bins": 16}

ZOO = {
    "bert": ("Bert", "Model", TEXT),
    "distilbert": ("DistilBert", "ForMaskedLM", DISTIL),
    "albert": ("Albert", "Model", {**TEXT, "embedding_size": 16}),
    "roberta": ("Roberta", "ForSequenceClassification", TEXT),
    "deberta-v2": ("DebertaV2", "Model", {**TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "gpt2": ("GPT2", "LMHeadModel", GPT2),
    "llama": ("Llama", "ForCausalLM", {**TEXT, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2", "ForCausalLM", {**TEXT, "num_key_value_heads": 2}),
    "mistral": ("Mistral", "ForCausalLM", {**TEXT, "num_key_value_heads": 2, "sliding_window": 32}),
    "gpt_neox": ("GPTNeoX", "ForCausalLM", TEXT),
    "opt": ("OPT", "ForCausalLM", {**OPT, "word_embed_proj_dim": 32}),
    "bloom": ("Bloom", "ForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99}),
    "t5": ("T5", "ForConditionalGeneration", T5),
    "bart": ("Bart", "ForConditionalGeneration", BOTH),
    "vit": ("ViT", "ForImageClassification", {**WIDTHS, **IMAGE}),
    "clip": ("CLIP", "Model", {"text_config": TEXT, "vision_config": {**WIDTHS, **IMAGE}, "projection_dim": 16}),
    "wav2vec2": ("Wav2Vec2", "ForCTC", {**TEXT, **EARS, **CONVOLUTION}),
    "whisper": ("Whisper", "ForConditionalGeneration", LISTENER),
    "resnet": ("ResNet", "Model", {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}),
}


def _build(name):
    transformers = importlib.import_module("transformers")
    prefix, suffix, settings = ZOO[name]
    torch.manual_seed(0)
    model = getattr(transformers, prefix + suffix)(getattr(transformers, f"{prefix}Config")(**settings))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().double()


@pytest.fixture(scope="session")
def build():
    """A new tiny model by name."""
    pytest.importorskip("transformers")
    return _build


@pytest.fixture(scope="session")
def captured(build):
    """(model, program) by name and task."""
    from graphwright.frontends.capture import capture

    @cache
    def make(name, task=None):
        model = build(name)
        return model, capture(model, task=task)

    return make
