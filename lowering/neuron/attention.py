"""Scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphwright.lowering.checks import plain_attention
from graphwright.lowering.neuron.builder import Builder, Out, Value, sizes
from graphwright.lowering.neuron.calls import fused
from graphwright.lowering.neuron.matmul import contracted
from graphwright.lowering.neuron.reduce import reduced, wide
from graphwright.lowering.neuron.table import register
from graphwright.lowering.neuron.xla import hlo

aten = torch.ops.aten


@register(aten.scaled_dot_product_attention.default, validate=plain_attention)
def attention(
    b: Builder, query: Value, key: Value, value: Value, attn_mask: Value | None, dropout_p: float, is_causal: bool,
    scale: float | None, enable_gqa: bool,
) -> Any:  # fmt: skip
    """Two products around a softmax; grouped query heads are further rows of one product with their head's keys."""
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    grouped = _grouped(b, query, key)
    rank = len(sizes(grouped)) - 2
    scores = wide(b, contracted(b, grouped, key.out, (rank + 1, rank + 1), rank))
    scores = b.reshape(scores, [*query.shape[:-1], key.shape[-2]])
    scores = hlo.multiply(scores, b.like(factor, scores))
    allowed = _allowed(b, scores, attn_mask, is_causal)
    if allowed is not None:
        scores = b.select(allowed, scores, b.const(-1e30, scores.type.element_type))
    elif attn_mask is not None:
        bias = b.convert(attn_mask.out, scores.type.element_type)
        scores = hlo.add(scores, b.broadcast(bias, sizes(scores)))
    weights = fused(b, "AwsNeuronSoftmax", [scores], str(query.rank - 1))
    if allowed is not None:  # torch gives zeros to a query without any key
        weights = b.select(allowed, weights, b.const(0, weights.type.element_type))
    weights = b.reshape(b.cast(weights, query.dtype), [*sizes(grouped)[:-1], key.shape[-2]])
    return b.reshape(b.cast(contracted(b, weights, value.out, (rank + 1, rank), rank), query.dtype), b.result.shape)


def _grouped(b: Builder, query: Value, key: Value) -> Out:
    """Queries [batch, key heads, group * queries, width]."""
    if query.rank < 4 or query.shape[-3] == key.shape[-3]:
        return query.out
    heads, times = key.shape[-3], query.shape[-3] // key.shape[-3]
    return b.reshape(query.out, [*query.shape[:-3], heads, times * query.shape[-2], query.shape[-1]])


def _allowed(b: Builder, scores: Out, mask: Value | None, is_causal: bool) -> Out | None:
    """Which scores a boolean mask and causality leave; None where neither is there."""
    allowed = None
    if mask is not None and mask.dtype is torch.bool:
        allowed = b.broadcast(mask.out, sizes(scores))
    if is_causal:
        shape = sizes(scores)
        rows, columns = (b.iota(shape, len(shape) - 2 + i, torch.int32) for i in (0, 1))
        causal = b.compare("GE", rows, columns)
        allowed = causal if allowed is None else hlo.and_(allowed, causal)
    return allowed


@register(aten._safe_softmax.default)
def safe_softmax(b: Builder, self: Value, dim: int, **_: Any) -> Any:
    """Softmax along a dimension; a row of minus infinities gives zeros."""
    axis, data = dim % max(self.rank, 1), wide(b, b.cast(self, b.result.dtype))
    top = reduced(b, data, "max", [axis], True)
    some = b.compare("GT", top, b.like(-math.inf, top))
    weights = fused(b, "AwsNeuronSoftmax", [data], str(axis))
    return b.cast(b.select(some, weights, b.const(0, weights.type.element_type)), b.result.dtype)
