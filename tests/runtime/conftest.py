"""Tiny transformers models with scaled weights, so that errors are not hidden by a small initialisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

TOKENS = {"vocab_size": 99, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 98}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHALLOW = {"num_hidden_layers": 1}
LLAMA = {**TOKENS, **SIZES, "intermediate_size": 48, "num_key_value_heads": 2}
BERT = {**SIZES, "intermediate_size": 48, "vocab_size": 99}

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {**TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**LLAMA, **SHALLOW}),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**LLAMA, "sliding_window": 10}),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {**TOKENS, **SIZES, **SHALLOW, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {**TOKENS, **SIZES, **SHALLOW, "intermediate_size": 48}),
    "bloom": ("BloomForCausalLM", "BloomConfig", {**TOKENS, "hidden_size": 32, "n_layer": 1, "n_head": 4}),
    "bert": ("BertModel", "BertConfig", BERT),
    "roformer": ("RoFormerModel", "RoFormerConfig", {**BERT, **SHALLOW}),
    "albert": ("AlbertModel", "AlbertConfig", {**BERT, **SHALLOW, "embedding_size": 16, "hidden_act": "gelu_new"}),
    "vit": ("ViTModel", "ViTConfig", {**SIZES, "intermediate_size": 48, "image_size": 16, "patch_size": 8}),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": 99, "d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": 1, "num_heads": 4, "pad_token_id": 0,
         "eos_token_id": 98, "decoder_start_token_id": 0},
    ),
    "bart": (
        "BartForConditionalGeneration",
        "BartConfig",
        {**TOKENS, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 2,
         "forced_eos_token_id": None},
    ),
}  # fmt: skip


def make_model(name: str, **config: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    model_class, config_class, options = MODELS[name]
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**options, **config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


@pytest.fixture(scope="session")
def make() -> Callable[..., torch.nn.Module]:
    """make(name, **config): a tiny model in eval mode."""
    return make_model


@pytest.fixture(scope="session")
def tokens() -> Callable[..., torch.Tensor]:
    """tokens(batch, length): token ids without special ones."""

    def ids(batch: int, length: int) -> torch.Tensor:
        return torch.randint(3, 90, (batch, length), generator=torch.Generator().manual_seed(batch * 100 + length))

    return ids


@pytest.fixture(scope="session")
def mask() -> Callable[..., torch.Tensor]:
    """mask(batch, length, kind): attention mask with `no`, `right`, `left` or `scattered` padding in its first row."""

    def make_mask(batch: int, length: int, kind: str) -> torch.Tensor:
        values = torch.ones(batch, length, dtype=torch.long)
        hidden = {"no": [], "right": [-1, -2], "left": [0, 1], "scattered": [1, 3]}[kind]
        values[0, hidden] = 0
        return values

    return make_mask
