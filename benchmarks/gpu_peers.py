"""What users of BERT on a GPU have otherwise: PyTorch's own encoder, and a forward that packs tokens by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.models import torch_encoder

functional = torch.nn.functional


def fastpath(model: Any) -> Callable[..., Any]:
    """BERT on `torch.nn.TransformerEncoder`, whose inference fast path uses nested tensors for padding."""
    encoder = torch_encoder(model).cuda().half()

    def run(input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        mask = None if attention_mask is None else attention_mask == 0
        return encoder(model.embeddings(input_ids), src_key_padding_mask=mask)

    return run


def hand_packed(model: Any) -> Callable[..., Any]:
    """BERT's layers on packed tokens, written out with `torch.nn.attention.varlen`."""
    from torch.nn.attention.varlen import varlen_attn

    layers = [_packed_layer(layer) for layer in model.encoder.layer]

    def run(input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        rows, length = input_ids.shape
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        tokens = mask.flatten().nonzero().flatten()
        offsets = functional.pad(mask.sum(1, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0))
        parts = model.embeddings
        x = parts.word_embeddings(input_ids.flatten()[tokens]) + parts.token_type_embeddings.weight[0]
        x = parts.LayerNorm(x + parts.position_embeddings(tokens % length))
        for layer in layers:
            x = layer(x, lambda q, k, v: varlen_attn(q, k, v, offsets, offsets, length, length))
        return x.new_zeros(rows * length, x.shape[1]).index_copy(0, tokens, x).view(rows, length, -1)

    return run


def _packed_layer(layer: Any) -> Callable[..., torch.Tensor]:
    """One layer on [tokens, width], its projections merged."""
    own, out = layer.attention.self, layer.attention.output
    weight = torch.cat([own.query.weight, own.key.weight, own.value.weight]).detach()
    bias = torch.cat([own.query.bias, own.key.bias, own.value.bias]).detach()
    heads = own.num_attention_heads

    def run(x: torch.Tensor, attend: Callable[..., torch.Tensor]) -> torch.Tensor:
        q, k, v = functional.linear(x, weight, bias).view(x.shape[0], 3, heads, -1).unbind(1)
        x = out.LayerNorm(out.dense(attend(q, k, v).flatten(1)) + x)
        inner = functional.gelu(layer.intermediate.dense(x))
        return layer.output.LayerNorm(layer.output.dense(inner) + x)

    return run
