"""Settings for the architectures whose sizes must agree in a way that the names of the settings do not tell.

`defaults` are needed to make even the default config. The others count more than the rules of `shrink`; those of a
nested config are a mapping, and a function makes its value when it is needed.
"""

from __future__ import annotations

from typing import Any


def _resnet() -> Any:
    """A convolutional backbone, in place of one from a package that need not be installed."""
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip


_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_expand": 2}
_SERIES: dict[str, Any] = {"defaults": {"prediction_length": 4, "context_length": 12}}
_BACKBONE = {"use_timm_backbone": False, "backbone_config": _resnet}
_SAM = {"output_channels": 64, "num_pos_feats": 32}
_VITS = {
    "upsample_initial_channel": 32,
    "upsample_rates": [2, 2],
    "upsample_kernel_sizes": [4, 4],
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
    "prior_encoder_num_flows": 2,
    "prior_encoder_num_wavenet_layers": 2,
    "posterior_encoder_num_wavenet_layers": 2,
    "duration_predictor_num_flows": 2,
    "duration_predictor_filter_channels": 32,
    "depth_separable_num_layers": 1,
}
_EFFICIENT = {"width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320}  # a quarter of 1280
_ROPE = {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}
_INDEXER = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16}
_INDEXER |= {"indexer_budget": 8, "indexer_compress_ratio": 2}

OVERRIDES: dict[str, dict[str, Any]] = {
    "align": {"projection_dim": 80, "vision_config": _EFFICIENT},
    "autoformer": _SERIES,
    "bamba": _MAMBA,
    "BeitForSemanticSegmentation": {"out_indices": [1, 2, 3, 4], "num_hidden_layers": 5},
    "blip-2": {"image_token_index": 4},
    "chameleon": {"vocabulary_map": {"<image>": 4}},
    "cohere_compass": {"text_config": {"rope_parameters": _ROPE}},
    "cohere_compass_text": {"rope_parameters": _ROPE},
    "conditional_detr": _BACKBONE,
    "dab-detr": _BACKBONE,
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "deepseek_v2": {"n_group": 2, "topk_group": 1, "num_experts_per_tok": 2},
    "deformable_detr": _BACKBONE,
    "detr": _BACKBONE,
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "efficientnet": _EFFICIENT,
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 128},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "granite_speech5_ctc": {"encoder_config": {"context_size": 16}},
    "granite_speech5_encoder": {"context_size": 16},
    "granitemoehybrid": {**_MAMBA, "layer_types": ["mamba", "attention"]},
    "informer": _SERIES,
    "led": {"attention_window": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"head_dim": 8},
    "longformer": {"attention_window": 4},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "omdet-turbo": _BACKBONE,
    "qwen4_exp": {"text_config": _INDEXER},
    "qwen4_exp_text": _INDEXER,
    "Qwen4ExpForCausalLM": _INDEXER,
    "ReformerModelWithLMHead": {"is_decoder": True},
    "sam": {"vision_config": _SAM},
    "sam_hq": {"vision_config": _SAM, "mask_decoder_config": {"vit_dim": 64}},
    "sapiens2": {"num_key_value_heads_per_layer": None},
    "seggpt": {"merge_index": 0},
    "step3p7": {"text_config": {"sliding_window": 4}},
    "swin2sr": {"depths": [2, 2], "num_heads": [2, 2], "embed_dim": 32, "image_size": 16, "window_size": 4},
    "table-transformer": _BACKBONE,
    "time_series_transformer": _SERIES,
    "vits": _VITS,
}


def overrides_of(model_type: str, class_name: str) -> dict[str, Any]:
    """The settings of one architecture; those of the class count more."""
    found = {**OVERRIDES.get(model_type, {}), **OVERRIDES.get(class_name, {})}
    return {name: value() if callable(value) else value for name, value in found.items()}
