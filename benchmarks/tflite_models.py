"""Models that are timed as TFLite files, built alike in the project's environment and in litert-torch's."""

from __future__ import annotations

import torch
import transformers as t

_SMALL = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
_DECODER = {
    "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4,
    "intermediate_size": 1024, "vocab_size": 2000, "use_cache": False,
}  # fmt: skip


def _ids(rows, length, vocabulary):
    return torch.randint(1, vocabulary, (rows, length))


def _text(rows=1, length=128, vocabulary=2000):
    return {"input_ids": _ids(rows, length, vocabulary), "attention_mask": torch.ones(rows, length, dtype=torch.long)}


def _image(size):
    return {"pixel_values": torch.randn(1, 3, size, size)}


MODELS = {
    "minilm": (lambda: t.BertModel(t.BertConfig(**_SMALL, vocab_size=2000)), _text),
    "minilm-32": (lambda: t.BertModel(t.BertConfig(**_SMALL, vocab_size=2000)), lambda: _text(length=32)),
    "roberta": (lambda: t.RobertaModel(t.RobertaConfig(**_SMALL, vocab_size=2000)), lambda: _text(length=64)),
    "distilbert": (
        lambda: t.DistilBertModel(
            t.DistilBertConfig(dim=384, n_layers=4, n_heads=12, hidden_dim=1536, vocab_size=2000)
        ),
        lambda: _text(length=64),
    ),
    "gpt2": (
        lambda: t.GPT2LMHeadModel(t.GPT2Config(n_embd=256, n_layer=4, n_head=8, vocab_size=2000, use_cache=False)),
        lambda: _text(length=64),
    ),
    "llama": (lambda: t.LlamaForCausalLM(t.LlamaConfig(**_DECODER)), lambda: _text(length=64)),
    "qwen3": (lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**_DECODER, head_dim=32)), lambda: _text(length=64)),
    "vit": (
        lambda: t.ViTModel(t.ViTConfig(hidden_size=192, num_hidden_layers=6, num_attention_heads=3,
                                       intermediate_size=768, image_size=112)),
        lambda: _image(112),
    ),
    "resnet": (
        lambda: t.ResNetModel(t.ResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512],
                                             layer_type="basic")),
        lambda: _image(112),
    ),
}  # fmt: skip
"""Name -> (makes the model, makes its inputs)."""


def build(name):
    """The model in evaluation mode and its inputs; the same in every process.

    What is zero or one in a fresh model is not in a trained one: without noise a converter would fold it away.
    """
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model, inputs()


class Tensors(torch.nn.Module):
    """A model whose result is its first tensor only, as litert-torch wants tensors."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, **inputs):
        return self.model(**inputs)[0]
