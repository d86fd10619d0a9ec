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


def llama(layers: int = 32, hidden: int = 4096) -> torch.nn.Module:
    """A Llama decoder with a language-model head, of the sizes of its 7B model by default.

    Args:
        layers: Number of layers.
        hidden: Width, a multiple of 128.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=hidden // 128,
        intermediate_size=11008 * hidden // 4096,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).eval()


def tokens(batch: int, length: int) -> dict[str, torch.Tensor]:
    """A right-padded batch: each sequence one eighth shorter than the one before."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    for row in range(1, batch):
        mask[row, max(length - row * length // 8, 1) :] = 0
    return {"input_ids": torch.randint(5, 1000, (batch, length)) * mask, "attention_mask": mask}


def padded(rows: int, length: int, padding: float, vocabulary: int = 30000) -> dict[str, torch.Tensor]:
    """A right-padded batch whose lengths are spread evenly around their mean, in no particular order.

    Args:
        rows: Number of sequences.
        length: Length of the longest.
        padding: Share of the positions that are padding.
        vocabulary: Largest token.
    """
    generator = torch.Generator().manual_seed(0)
    mean = length * (1 - padding)
    spread = min(mean - 1, length - mean)
    lengths = torch.linspace(mean - spread, mean + spread, rows).round().long()
    mask = (torch.arange(length) < lengths[torch.randperm(rows, generator=generator)][:, None]).long()
    return {
        "input_ids": torch.randint(5, vocabulary, (rows, length), generator=generator) * mask,
        "attention_mask": mask,
    }


def torch_encoder(model: torch.nn.Module) -> torch.nn.TransformerEncoder:
    """The encoder of a BERT as torch's own, which has a fused layer and skips padding with nested tensors."""
    config = model.config
    layer = torch.nn.TransformerEncoderLayer(
        config.hidden_size, config.num_attention_heads, config.intermediate_size, 0.0, "gelu", 1e-12, batch_first=True
    )
    encoder = torch.nn.TransformerEncoder(layer, config.num_hidden_layers, enable_nested_tensor=True)
    for new, old in zip(encoder.layers, model.encoder.layer, strict=True):
        own, pair = old.attention.self, old.attention.output
        new.self_attn.in_proj_weight.data = torch.cat([own.query.weight, own.key.weight, own.value.weight]).data
        new.self_attn.in_proj_bias.data = torch.cat([own.query.bias, own.key.bias, own.value.bias]).data
        for mine, theirs in (
            (new.self_attn.out_proj, pair.dense), (new.norm1, pair.LayerNorm), (new.linear1, old.intermediate.dense),
            (new.linear2, old.output.dense), (new.norm2, old.output.LayerNorm),
        ):  # fmt: skip
            mine.load_state_dict(theirs.state_dict())
    return encoder.eval()
