"""Settings for the architectures whose sizes must agree in a way that the names of the settings do not tell.

`defaults` are needed to make even the default config. The others count more than the rules of `shrink`; those of a
nested config are a mapping.
"""

from __future__ import annotations

from typing import Any

_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_expand": 2}
_SERIES: dict[str, Any] = {"defaults": {"prediction_length": 4, "context_length": 12}}

OVERRIDES: dict[str, dict[str, Any]] = {
    "autoformer": _SERIES,
    "bamba": _MAMBA,
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2}},
    "deepseek_v2": {"n_group": 2, "topk_group": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 128},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "granitemoehybrid": _MAMBA,
    "informer": _SERIES,
    "longformer": {"attention_window": 4},
    "led": {"attention_window": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "ReformerModelWithLMHead": {"is_decoder": True},
    "time_series_transformer": _SERIES,
}
