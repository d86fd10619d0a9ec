"""Small models of many architectures, with weights large enough for errors to show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as t

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = SMALL | {"vocab_size": 50, "max_position_embeddings": 64}
DECODER = TEXT | {"num_key_value_heads": 2}
SIDES = {"decoder_layers": 1, "encoder_layers": 1, "decoder_attention_heads": 4, "encoder_attention_heads": 4}
SEQ2SEQ = SIDES | {"d_model": 32, "decoder_ffn_dim": 64, "encoder_ffn_dim": 64, "vocab_size": 50}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
XLM = {"vocab_size": 50, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64}
IMAGE = SMALL | {"image_size": 16, "patch_size": 8}
DEBERTA = TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
MOBILE = {
    "vocab_size": 50, "hidden_size": 32, "embedding_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "intra_bottleneck_size": 16, "true_hidden_size": 16, "num_feedforward_networks": 2,
    "max_position_embeddings": 64,
}  # fmt: skip

FORMER: dict[str, Callable[[], Any]] = {
    "albert": lambda: t.AlbertModel(t.AlbertConfig(**TEXT, embedding_size=16)),
    "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**TEXT)),
    "camembert": lambda: t.CamembertModel(t.CamembertConfig(**TEXT)),
    "convbert": lambda: t.ConvBertModel(t.ConvBertConfig(**TEXT, embedding_size=16)),
    "deberta": lambda: t.DebertaModel(t.DebertaConfig(**TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"])),
    "deberta-v2": lambda: t.DebertaV2Model(t.DebertaV2Config(**DEBERTA)),
    "distilbert": lambda: t.DistilBertModel(
        t.DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=50, max_position_embeddings=64)
    ),
    "electra": lambda: t.ElectraModel(t.ElectraConfig(**TEXT, embedding_size=16)),
    "flaubert": lambda: t.FlaubertModel(t.FlaubertConfig(**XLM)),
    "mobilebert": lambda: t.MobileBertModel(t.MobileBertConfig(**MOBILE)),
    "mpnet": lambda: t.MPNetModel(t.MPNetConfig(**TEXT)),
    "resnet": lambda: t.ResNetForImageClassification(
        t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic")
    ),
    "roberta": lambda: t.RobertaForTokenClassification(t.RobertaConfig(**TEXT)),
    "roformer": lambda: t.RoFormerModel(t.RoFormerConfig(**TEXT, embedding_size=16)),
    "xlm": lambda: t.XLMModel(t.XLMConfig(**XLM)),
    "xlm-roberta": lambda: t.XLMRobertaModel(t.XLMRobertaConfig(**TEXT)),
}
"""The architectures that Optimum's exporter to TFLite had."""

MORE: dict[str, Callable[[], Any]] = {
    "modernbert": lambda: t.ModernBertModel(t.ModernBertConfig(**TEXT | {"local_attention": 8}, pad_token_id=0)),
    "nomic-bert": lambda: t.NomicBertModel(t.NomicBertConfig(**TEXT)),
    "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=50, n_positions=64)),
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**DECODER)),
    "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**DECODER, sliding_window=8)),
    "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**DECODER)),
    "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**DECODER, head_dim=8)),
    "gemma": lambda: t.GemmaForCausalLM(t.GemmaConfig(**DECODER, head_dim=8)),
    "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**DECODER, head_dim=8)),
    "gemma3": lambda: t.Gemma3ForCausalLM(t.Gemma3TextConfig(**DECODER, head_dim=8, sliding_window=8)),
    "phi3": lambda: t.Phi3ForCausalLM(t.Phi3Config(**DECODER, pad_token_id=0)),
    "opt": lambda: t.OPTForCausalLM(
        t.OPTConfig(hidden_size=32, num_hidden_layers=2, ffn_dim=64, num_attention_heads=4, vocab_size=50,
                    word_embed_proj_dim=32, max_position_embeddings=64)
    ),
    "bloom": lambda: t.BloomForCausalLM(t.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=50)),
    "bart": lambda: t.BartModel(t.BartConfig(**SEQ2SEQ, max_position_embeddings=64)),
    "t5": lambda: t.T5Model(t.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, vocab_size=50)),
    "whisper": lambda: t.WhisperModel(
        t.WhisperConfig(**SEQ2SEQ, **TOKENS, num_mel_bins=8, max_source_positions=12, max_target_positions=32)
    ),
    "vit": lambda: t.ViTForImageClassification(t.ViTConfig(**IMAGE)),
    "deit": lambda: t.DeiTModel(t.DeiTConfig(**IMAGE)),
    "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**IMAGE)),
    "clip-vision": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**IMAGE)),
    "swin": lambda: t.SwinModel(
        t.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4)
    ),
    "convnext": lambda: t.ConvNextModel(
        t.ConvNextConfig(hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], image_size=32)
    ),
    "mobilenet-v2": lambda: t.MobileNetV2Model(t.MobileNetV2Config(image_size=32, depth_multiplier=0.35)),
    "wav2vec2": lambda: t.Wav2Vec2Model(
        t.Wav2Vec2Config(**SMALL, vocab_size=50, conv_dim=(16, 16), conv_stride=(5, 2), conv_kernel=(10, 3),
                         num_feat_extract_layers=2, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
    ),
}  # fmt: skip


def build(name: str) -> Any:
    """A model in evaluation mode, its weights three times what they are made with."""
    torch.manual_seed(0)
    model = (FORMER | MORE)[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model
