"""Tiny models of many architectures, with weights large enough for errors to show."""

from __future__ import annotations

from typing import Any

import torch

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = SMALL | SPECIAL | {"vocab_size": 50, "max_position_embeddings": 64}
GROUPED = TEXT | {"num_key_value_heads": 2}
GPT = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64, "vocab_size": 50} | SPECIAL
VISION = SMALL | {"image_size": 16, "patch_size": 4}
PAIR = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "vocab_size": 50,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "decoder_start_token_id": 1,
} | SPECIAL  # fmt: skip
AUDIO = SMALL | {
    "vocab_size": 50, "conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3),
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}

ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "albert": ("AlbertModel", TEXT | {"embedding_size": 16}),
    "bert": ("BertForMaskedLM", TEXT),
    "camembert": ("CamembertModel", TEXT),
    "deberta": ("DebertaV2Model", TEXT | RELATIVE),
    "distilbert": ("DistilBertModel", {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64, "vocab_size": 50}),
    "electra": ("ElectraForTokenClassification", TEXT | {"embedding_size": 16}),
    "esm": ("EsmModel", TEXT | {"position_embedding_type": "rotary", "mask_token_id": 3}),
    "flaubert": ("FlaubertModel", {"emb_dim": 32, "n_layers": 1, "n_heads": 4, "vocab_size": 50, "n_words": 50}),
    "modernbert": ("ModernBertModel", TEXT | {"local_attention": 8, "cls_token_id": 1, "sep_token_id": 2}),
    "mobilebert": ("MobileBertModel", TEXT | {"embedding_size": 32, "intra_bottleneck_size": 32}),
    "mpnet": ("MPNetModel", TEXT),
    "roberta": ("RobertaForSequenceClassification", TEXT | {"pad_token_id": 1}),
    "roformer": ("RoFormerModel", TEXT),
    "xlm": ("XLMModel", {"emb_dim": 32, "n_layers": 1, "n_heads": 4, "vocab_size": 50, "n_words": 50}),
    "xlm-roberta": ("XLMRobertaForQuestionAnswering", TEXT | {"pad_token_id": 1}),
}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("BloomForCausalLM", {"hidden_size": 32, "n_layer": 1, "n_head": 4, "vocab_size": 50}),
    "cohere": ("CohereForCausalLM", GROUPED),
    "falcon": (
        "FalconForCausalLM", {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 50},
    ),
    "gemma": ("GemmaForCausalLM", GROUPED | {"head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", GROUPED | {"head_dim": 8}),
    "gemma3": ("Gemma3ForCausalLM", GROUPED | {"head_dim": 8}),
    "gpt-neox": ("GPTNeoXForCausalLM", TEXT),
    "gpt-oss": ("GptOssForCausalLM", GROUPED | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt2": ("GPT2LMHeadModel", GPT),
    "gptj": ("GPTJForCausalLM", GPT | {"rotary_dim": 4}),
    "granite": ("GraniteForCausalLM", GROUPED),
    "llama": ("LlamaForCausalLM", GROUPED),
    "mistral": ("MistralForCausalLM", GROUPED | {"sliding_window": 8}),
    "mixtral": ("MixtralForCausalLM", GROUPED | {"num_local_experts": 4}),
    "mpt": ("MptForCausalLM", {"d_model": 32, "n_heads": 4, "n_layers": 1, "max_seq_len": 64, "vocab_size": 50}),
    "olmo2": ("Olmo2ForCausalLM", GROUPED),
    "opt": (
        "OPTForCausalLM",
        TEXT | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    ),
    "phi": ("PhiForCausalLM", TEXT),
    "phi3": ("Phi3ForCausalLM", GROUPED),
    "qwen2": ("Qwen2ForCausalLM", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", GROUPED | {"head_dim": 8}),
    "stablelm": ("StableLmForCausalLM", GROUPED),
    "starcoder2": ("Starcoder2ForCausalLM", GROUPED),
}  # fmt: skip
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bart": ("BartModel", PAIR),
    "beit": ("BeitModel", VISION),
    "clip": ("CLIPModel", {"text_config": TEXT, "vision_config": VISION, "projection_dim": 16}),
    "convnext": ("ConvNextModel", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 16}),
    "deit": ("DeiTModel", VISION),
    "dinov2": ("Dinov2Model", VISION),
    "hubert": ("HubertModel", AUDIO),
    "mbart": ("MBartForConditionalGeneration", PAIR),
    "pegasus": ("PegasusModel", PAIR),
    "resnet": ("ResNetModel", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}),
    "segformer": (
        "SegformerModel",
        {"num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [8, 16], "num_attention_heads": [1, 2],
         "sr_ratios": [2, 1], "patch_sizes": [3, 3], "strides": [2, 2], "mlp_ratios": [2, 2]},
    ),
    "swin": (
        "SwinModel",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    ),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "vocab_size": 50},
    ),
    "vit": ("ViTForImageClassification", VISION),
    "wav2vec2": ("Wav2Vec2Model", AUDIO),
    "whisper": ("WhisperModel", PAIR | {"num_mel_bins": 8, "max_source_positions": 12}),
    "yolos": ("YolosModel", VISION | {"num_detection_tokens": 4, "image_size": [16, 16]}),
}  # fmt: skip
ALL = ENCODERS | DECODERS | OTHERS


FACTORS = {"t5": 1.5}
"""T5 does not scale its scores: with weights three times as large, they amplify the rounding of its float32 norms."""


def build(name: str) -> Any:
    """A model in eval mode, its parameters multiplied."""
    import transformers

    torch.manual_seed(0)
    cls, config = ALL[name]
    model = getattr(transformers, cls)
    model = model(model.config_class(**config)).eval()
    return scaled(model, FACTORS.get(name, 3.0))


def scaled(model: Any, factor: float = 3.0) -> Any:
    """A model with its parameters multiplied."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    return model.eval()
