"""Tiny transformers models, built as they are asked for, and the call each is captured with."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.ir.program import Program
from graphwright.ir.signature import Example

VOCABULARY = 99
_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_GROUPED = {**_SMALL, "num_key_value_heads": 2, "head_dim": 8}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertModel", "BertConfig", _SMALL),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _GROUPED),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", _GROUPED),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _GROUPED),
    "t5": ("T5ForConditionalGeneration", "T5Config", {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 64}),
    "gptj": ("GPTJForCausalLM", "GPTJConfig", {**_GPT, "rotary_dim": 4}),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _SMALL),
    "phi": ("PhiForCausalLM", "PhiConfig", _SMALL),
    "vit": ("ViTModel", "ViTConfig", {**_SMALL, "image_size": 16, "patch_size": 4}),
    "cohere": ("CohereForCausalLM", "CohereConfig", _SMALL),
    "gpt_oss": ("GptOssForCausalLM", "GptOssConfig", {**_GROUPED, "num_local_experts": 2, "num_experts_per_tok": 1}),
    "resnet": (
        "ResNetModel",
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    ),
}
_IMAGES = {"vit": 16, "resnet": 32}


def build(name: str, dtype: torch.dtype) -> torch.nn.Module:
    """The model with weights scaled up and norms off one, so that errors show."""
    import transformers

    model_class, config_class, options = MODELS[name]
    text = {} if name in _IMAGES else {"vocab_size": VOCABULARY}
    attention = {} if name == "resnet" else {"attn_implementation": "eager"}
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**options, **text, **attention))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3) if parameter.dim() > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer.add_(0.3 * torch.randn_like(buffer))
    return model.eval().to(dtype)


def call(name: str, dtype: torch.dtype, batch: int = 2, length: int = 7, seed: int = 1) -> dict[str, Any]:
    """Arguments of `forward`: ids with a mask that is padded in one row, or an image."""
    generator = torch.Generator().manual_seed(seed)
    if name in _IMAGES:
        return {"pixel_values": torch.randn(batch, 3, *[_IMAGES[name]] * 2, generator=generator).to(dtype)}
    ids = torch.randint(1, VOCABULARY, (batch, length), generator=generator)
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[0, length - 2 :] = 0
    arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if name == "t5":
        arguments["decoder_input_ids"] = ids[:, :5].clone()
    return arguments if name == "bert" else arguments | {"use_cache": False}


def capture(name: str, dtype: torch.dtype = torch.float32) -> Program:
    """The program of a model with dynamic batch and length."""
    arguments = call(name, dtype)
    auto = torch.export.Dim.AUTO
    dims = {key: _dims(value, auto) for key, value in arguments.items()}
    exported = torch.export.export(build(name, dtype), (), arguments, dynamic_shapes=dims, strict=False)
    return Program.from_exported(exported, example=Example((), arguments), name=name)


def _dims(value: Any, auto: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return None
    return {0: auto} if value.dim() == 4 else {0: auto, 1: auto}
