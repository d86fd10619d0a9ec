"""Small values for the settings of a config, by the name of the setting."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEADS, HEAD_WIDTH, INNER, VOCABULARY, POSITIONS, IMAGE = 64, 4, 16, 96, 99, 64, 64


@dataclass(frozen=True)
class Rule:
    """Largest value of the settings with one of these names.

    Args:
        group: Which group of settings it belongs to; all settings of a group are made small together, or none.
        limit: The largest value, None for whatever it is.
        names: Regular expressions for whole names.
    """

    group: str
    limit: int | None
    names: re.Pattern[str]


def _rule(group: str, limit: int | None, *names: str) -> Rule:
    return Rule(group, limit, re.compile("|".join(names)))


# The first rule with the name of a setting counts.
RULES = (
    _rule("vocabulary", VOCABULARY, "(.*_)?vocab_size", "vocab_size_.*", "vocabulary_size"),
    _rule("experts", 4, "(moe_)?num_experts", "n_routed_experts", "num_local_experts", "num_.*routed_experts"),
    _rule("experts", 2, "num_experts_per_tok(en)?", "moe_top_?k", "top_k", "num_selected_experts", "moe_k"),
    _rule("experts", 2, "n_groups?", "num_expert_groups?"),
    _rule("experts", 1, "topk_group"),
    _rule("experts", POSITIONS, "expert_capacity"),
    _rule("depth", 1, "first_k_dense_replace", "n(um)?_dense_layers", "moe_layer_start_index"),
    _rule("depth", 2, ".*sliding_window_pattern", "global_attn_every_n_layers", ".*(attn|expert)_layer_period"),
    _rule("depth", 1, ".*(attn|expert)_layer_offset"),
    _rule("depth", None, "num_kv_shared_layers", "num_(feat_extract|residual)_layers", ".*(adapter|norm)_layers"),
    _rule("depth", 2, "(.*_)?(num_)?(layers|blocks)", "n_layers?", "(.*_)?depth"),
    _rule("width", 2 * HEADS, "mamba_(n|num)_heads", "n_mamba_heads"),
    _rule("width", 2 * WIDTH, "mamba_d_ssm"),
    _rule("width", 8, "mamba_d_state", "(ssm_)?state_size", "time_step_rank", "mamba_dt_rank"),
    _rule("width", HEADS, "(.*_)?heads?"),
    _rule("width", HEAD_WIDTH // 2, "qk_rope_(head_)?dim", "rotary_dim"),
    _rule("width", HEAD_WIDTH + HEAD_WIDTH // 2, "qk_head_dim"),
    _rule("width", HEAD_WIDTH, ".*head_(dim|size)", "d_kv", "d_head", "mamba_d_head", "attention_key_size"),
    _rule("width", HEAD_WIDTH, "kv_channels", ".*lora_(rank|dim)", "lora_r"),
    _rule("width", INNER, "(.*_)?(intermediate|ffn|inner|feed_?forward|mlp|ffn_hidden)_(size|dim)"),
    _rule("width", INNER, "d_ff", "d_inner", "n_inner", ".*_(intermediate|ffn).*_size"),
    _rule("width", WIDTH, "(.*_)?(hidden|embed|embedding|projection|proj|emb)_?(size|dim)s?"),
    _rule("width", WIDTH, "(.*_)?(projector|out|output|pooler|layer)_(hidden_)?(size|dim)(_.*)?"),
    _rule("width", WIDTH, "d_model", "n_embd", "dim", "width", "d_embed", "fpn_.*size", "mask_feature_size"),
    _rule("width", WIDTH, "text_dim", "image_dim", ".*_model_dim", "upsample_groups"),
    _rule("positions", POSITIONS, "(.*_)?max_(position_embeddings|(source|target|2d|length)_?position.*)"),
    _rule("positions", POSITIONS, "n_positions", "n_ctx", "max_seq_len(gth)?", "seq_length", "max_sequence_length"),
    _rule("positions", POSITIONS, "context_length", "original_max_position_embeddings"),
    _rule("windows", 4, "(.*_)?sliding_window(_size)?", "(.*_)?window_size", "attention_window", "local_attention"),
    _rule("windows", 4, "attention_chunk_size", ".*window_length", "block_length"),
    _rule("queries", 12, "(.*_)?num_queries", "num_latents", "num_query_tokens", "num_denoising"),
    _rule("images", 4, "num_frames", "frames_per_clip"),
)
GROUPS = frozenset({rule.group for rule in RULES} | {"stages"})

_STAGES = re.compile("depths?|layers|num_blocks|block_sizes|blocks_per_stage|stage_num_blocks")
_IMAGE = re.compile("(pretrain_|input_|img_)?(image_|img_)?size")
_POSITIONS = re.compile("(?!enc).*(_indexes|_indices|_idxs|layer_ids|_layers|_blocks|_hook_ids|_feature_layer)")
_KEY_HEADS = re.compile(".*(key_value|kv)_heads.*|n_kv_heads?|multi_query_group_num")
_TOKEN = re.compile(".*_(id|index|tokens?|token_ids)|.*token.*_id")


def small(name: str, value: int, groups: frozenset[str]) -> int:
    """The small value of a whole-number setting; the value itself where no rule of these groups is about it."""
    rule = _rule_for(name)
    if rule is None or rule.limit is None or rule.group not in groups:
        return value
    return min(value, rule.limit)


def _rule_for(name: str) -> Rule | None:
    return next((rule for rule in RULES if rule.names.fullmatch(name)), None)


def is_depth(name: str) -> bool:
    """Whether a setting counts layers."""
    rule = _rule_for(name)
    return rule is not None and rule.group == "depth"


def is_stages(name: str) -> bool:
    """Whether a list has the number of layers of each stage."""
    return _STAGES.fullmatch(name) is not None


def is_layer_positions(name: str, value: Sequence[Any]) -> bool:
    """Whether a list says which layers are of some kind."""
    return _POSITIONS.fullmatch(name) is not None and all(isinstance(item, int) for item in value)


def is_image_size(name: str) -> bool:
    """Whether a setting is the height and width of images."""
    return _IMAGE.fullmatch(name) is not None and name != "size"


def is_key_heads(name: str) -> bool:
    """Whether a setting counts the heads of keys and values."""
    return _KEY_HEADS.fullmatch(name) is not None


def is_token(name: str) -> bool:
    """Whether a setting is the number of a token, or a list of such."""
    return _TOKEN.fullmatch(name) is not None
