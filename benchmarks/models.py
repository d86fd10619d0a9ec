"""Models that the measurements share: real architectures with random weights."""

from __future__ import annotations

import torch


def bert(layers: int = 12, hidden: int = 768, attention: str = "eager", vocabulary: int = 30522) -> torch.nn.Module:
    """A BERT encoder; BERT-base by default.

    Args:
        layers: Number of layers.
        hidden: Width, a multiple of 64.
        attention: transformers' attention implementation.
        vocabulary: Number of tokens.
    """
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=max(hidden // 64, 1),
        intermediate_size=4 * hidden,
        vocab_size=vocabulary,
        attn_implementation=attention,
    )
    return BertModel(config, add_pooling_layer=False).eval()


def tokens(batch: int, length: int) -> dict[str, torch.Tensor]:
    """A right-padded batch: each sequence one eighth shorter than the one before."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    for row in range(1, batch):
        mask[row, max(length - row * length // 8, 1) :] = 0
    return {"input_ids": torch.randint(5, 1000, (batch, length)) * mask, "attention_mask": mask}
