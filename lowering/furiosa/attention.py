"""Attention and softmaxes, written out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphwright.lowering.furiosa.decompositions import rule

aten = torch.ops.aten


@rule(aten.scaled_dot_product_attention.default)
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention written out; a query without any key gives zeros, as in torch, and no infinities are needed for it."""
    if enable_gqa:
        key, value = (_repeated(x, query.shape[-3] // x.shape[-3]) for x in (key, value))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is None:
        return torch.matmul(torch.softmax(scores, -1), value)
    if attn_mask.dtype != torch.bool:
        return torch.matmul(torch.ops.aten._safe_softmax(scores + attn_mask, -1), value)
    lowest = torch.full_like(scores, torch.finfo(scores.dtype).min)
    weights = torch.softmax(torch.where(attn_mask, scores, lowest), -1)
    return torch.matmul(torch.where(attn_mask, weights, torch.zeros_like(weights)), value)


def _repeated(x: Tensor, times: int) -> Tensor:
    """[..., heads, length, width] -> [..., heads * times, length, width]."""
    *rows, heads, length, width = x.shape
    return x.unsqueeze(-3).expand(*rows, heads, times, length, width).reshape(*rows, heads * times, length, width)


@rule(aten._safe_softmax.default)
def safe_softmax(scores: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax whose rows are zeros where all scores are minus infinity."""
    scores = scores if dtype is None else scores.to(dtype)
    masked = scores == -math.inf
    weights = torch.softmax(torch.where(masked, torch.full_like(scores, torch.finfo(scores.dtype).min), scores), dim)
    return torch.where(masked, torch.zeros_like(weights), weights)
