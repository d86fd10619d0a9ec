"""Tiny transformers models with scaled weights, and the calls they are exported with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

BATCH, SEQUENCE, VOCAB = 2, 7, 99
_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
_BASE = {"vocab_size": VOCAB, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TEXT = {"batch": 0, "sequence": 1}


@dataclass(frozen=True)
class Case:
    """One model: its transformers classes, configuration, inputs, and named dynamic dimensions."""

    model: str
    config: dict[str, Any]
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    options: dict[str, Any] = field(default_factory=dict)
    attention: tuple[str, ...] = ("eager", "sdpa")


def _encoder(model: str, **config: Any) -> Case:
    return Case(model, {**_BASE, **_SMALL, **config})


def _decoder(model: str, **config: Any) -> Case:
    return Case(model, {**_BASE, **_SMALL, **config}, options={"use_cache": False})


CASES: dict[str, Case] = {
    "bert": _encoder("BertModel"),
    "roberta": _encoder("RobertaModel", pad_token_id=1),
    "distilbert": Case(
        "DistilBertModel",
        {**_BASE, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48},
    ),
    "albert": _encoder("AlbertModel", embedding_size=16),
    "deberta-v2": Case(
        "DebertaV2Model",
        {
            **_BASE,
            **_SMALL,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
        },
        attention=("eager",),
    ),
    "electra": _encoder("ElectraModel", embedding_size=16),
    "mpnet": Case("MPNetModel", {**_BASE, **_SMALL}, attention=("eager",)),
    "gpt2": Case(
        "GPT2LMHeadModel",
        {**_BASE, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
        options={"use_cache": False},
    ),
    "llama": _decoder("LlamaForCausalLM", num_key_value_heads=1),
    "qwen2": _decoder("Qwen2ForCausalLM", num_key_value_heads=1),
    "mistral": _decoder("MistralForCausalLM", num_key_value_heads=1, sliding_window=None),
    "gpt-neox": _decoder("GPTNeoXForCausalLM"),
    "opt": Case(
        "OPTForCausalLM",
        {
            **_BASE,
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 48,
        },
        options={"use_cache": False},
    ),
    "bloom": Case(
        "BloomForCausalLM",
        {**_BASE, "hidden_size": 32, "n_layer": 2, "n_head": 2},
        options={"use_cache": False},
        attention=("eager",),
    ),
    "t5": Case(
        "T5ForConditionalGeneration",
        {
            "vocab_size": VOCAB,
            "d_model": 32,
            "d_kv": 16,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 2,
            "pad_token_id": 0,
            "decoder_start_token_id": 0,
        },
        inputs=("input_ids", "attention_mask", "decoder_input_ids"),
        options={"use_cache": False},
        attention=("eager",),
    ),
    "bart": Case(
        "BartForConditionalGeneration",
        {
            **_BASE,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "decoder_start_token_id": 2,
        },
        inputs=("input_ids", "attention_mask", "decoder_input_ids"),
        options={"use_cache": False},
    ),
    "vit": Case("ViTModel", {**_SMALL, "image_size": 16, "patch_size": 4}, inputs=("pixel_values",)),
    "clip": Case(
        "CLIPModel",
        {
            "text_config": {**_BASE, **_SMALL},
            "vision_config": {**_SMALL, "image_size": 16, "patch_size": 4},
            "projection_dim": 16,
        },
        inputs=("input_ids", "attention_mask", "pixel_values"),
    ),
    "wav2vec2": Case(
        "Wav2Vec2Model",
        {
            **_SMALL,
            "vocab_size": 32,
            "conv_dim": (8, 8),
            "conv_stride": (5, 2),
            "conv_kernel": (10, 3),
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
            "hidden_dropout": 0.0,
        },
        inputs=("input_values",),
    ),
    "whisper": Case(
        "WhisperForConditionalGeneration",
        {
            "vocab_size": VOCAB,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "num_mel_bins": 8,
            "max_source_positions": 16,
            "max_target_positions": 32,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
            "begin_suppress_tokens": None,
        },
        inputs=("input_features", "decoder_input_ids"),
        options={"use_cache": False},
    ),
}


def build(name: str, attention: str = "sdpa", scale: float = 3.0) -> torch.nn.Module:
    """A tiny model in eval mode; its weight matrices are scaled up, as default initialisation hides errors."""
    import transformers

    case = CASES[name]
    cls = getattr(transformers, case.model)
    torch.manual_seed(0)
    model = cls(cls.config_class(**case.config, attn_implementation=attention)).eval()
    model.set_attn_implementation(attention)  # configs within a config, which transformers 5.17 copies for T5
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale if parameter.dim() > 1 else 1.0)
    return model


def make_inputs(name: str, batch: int = BATCH, sequence: int = SEQUENCE, padding: str = "none") -> dict[str, Any]:
    """Inputs of a case."""
    generator = torch.Generator().manual_seed(batch * 31 + sequence)
    case = CASES[name]

    def ids(length: int) -> torch.Tensor:
        return torch.randint(3, VOCAB, (batch, length), generator=generator)

    makers = {
        "input_ids": lambda: ids(sequence),
        "decoder_input_ids": lambda: ids(sequence + 2),
        "attention_mask": lambda: padded_mask(batch, sequence, padding),
        "pixel_values": lambda: torch.randn(batch, 3, 16, 16, generator=generator),
        "input_values": lambda: torch.randn(batch, 100 + 20 * sequence, generator=generator),
        "input_features": lambda: torch.randn(batch, 8, 32, generator=generator),
    }
    return {key: makers[key]() for key in case.inputs} | dict(case.options)


def padded_mask(batch: int, sequence: int, padding: str) -> torch.Tensor:
    """A mask of ones; the last row loses up to half of its tokens on the given side."""
    mask = torch.ones(batch, sequence, dtype=torch.long)
    holes = sequence // 2
    if holes:
        if padding == "right":
            mask[-1, -holes:] = 0
        elif padding == "left":
            mask[-1, :holes] = 0
        elif padding == "scattered":
            mask[-1, 1::2] = 0
    return mask


def dynamic(inputs: dict[str, Any]) -> dict[str, Any]:
    """Dynamic batch and sequence for `torch.export`; images and features have fixed sizes."""
    auto = torch.export.Dim.AUTO
    shapes: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, torch.Tensor):
            shapes[name] = {0: auto, 1: auto} if value.dim() == 2 else {0: auto}
        else:
            shapes[name] = None
    return shapes
