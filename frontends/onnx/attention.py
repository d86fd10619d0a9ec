"""ONNX attention and rotary embedding."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from graphwright.frontends.onnx.table import Call, register
from graphwright.frontends.onnx.values import tensor


def heads(x: torch.Tensor, count: int) -> torch.Tensor:
    """[batch, sequence, heads * size] as [batch, heads, sequence, size]."""
    return x.unflatten(-1, (count, x.shape[-1] // count)).transpose(1, 2)


def merged(x: torch.Tensor) -> torch.Tensor:
    """[batch, heads, sequence, size] as [batch, sequence, heads * size]."""
    return x.transpose(1, 2).flatten(2)


def causal(queries: Any, keys: Any, offset: Any) -> torch.Tensor:
    """True where a query, which is `offset` positions after the first key, may see a key."""
    return torch.arange(keys) <= torch.arange(queries)[:, None] + offset


@register("Attention")
def attention(
    call: Call, q: Any, k: Any, v: Any, mask: Any = None, past_key: Any = None, past_value: Any = None,
    lengths: Any = None,
) -> Any:  # fmt: skip
    """Attention of opset 23 and 24, with cache, grouped heads, soft-capping and a causal mask by option."""
    query, key, value = tensor(q), tensor(k), tensor(v)
    flat = query.dim() == 3
    if flat:
        query, shared = heads(query, call.attr("q_num_heads")), call.attr("kv_num_heads")
        key, value = heads(key, shared), heads(value, shared)
    offset: Any = 0
    if past_key is not None:
        offset = tensor(past_key).shape[2]
        key = torch.cat([tensor(past_key), key], 2)
        value = torch.cat([tensor(past_value), value], 2)
    allowed = None if mask is None else tensor(mask)
    if lengths is not None:
        filled = tensor(lengths)[:, None, None, None]
        allowed = both(allowed, torch.arange(key.shape[2]) < filled)
        offset = filled - query.shape[2]
    is_causal = bool(call.attr("is_causal", 0))
    if is_causal and (past_key is not None or allowed is not None):
        allowed, is_causal = both(allowed, causal(query.shape[2], key.shape[2], offset)), False
    result, scores = _attend(call, query, key, value, allowed, is_causal)
    result = merged(result) if flat else result
    return (result, key, value, scores)[: call.outputs] if call.outputs > 1 else result


def both(mask: torch.Tensor | None, allowed: torch.Tensor) -> torch.Tensor:
    """A mask, boolean or added to the scores, that also forbids what is not allowed."""
    if mask is None:
        return allowed
    return mask & allowed if mask.dtype is torch.bool else mask.masked_fill(~allowed, -torch.inf)


def _attend(
    call: Call, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, is_causal: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    scale, softcap = call.attr("scale"), call.attr("softcap", 0.0)
    grouped = query.shape[1] != key.shape[1]
    if not softcap and call.outputs < 4:
        return F.scaled_dot_product_attention(
            query, key, value, mask, is_causal=is_causal, scale=scale, enable_gqa=grouped
        ), None
    if call.attr("qk_matmul_output_mode", 0):
        raise call.unsupported("scores after the mask or the softmax as an output")
    if grouped:
        times = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    scores = torch.matmul(query, key.transpose(-1, -2)) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    capped = torch.tanh(scores / softcap) * softcap if softcap else scores
    if is_causal:
        mask = causal(query.shape[2], key.shape[2], 0)
    if mask is not None:
        capped = capped.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else capped + mask
    return torch.matmul(F.softmax(capped, -1), value), scores


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """Rotary embedding of [batch, heads, sequence, size] by [batch, 1, sequence, half] tables."""
    size = cos.shape[-1] * 2
    part, rest = x[..., :size], x[..., size:]
    first, second = (part[..., 0::2], part[..., 1::2]) if interleaved else part.chunk(2, -1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    result = torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)
    return torch.cat([result, rest], -1) if rest.shape[-1] else result


@register("RotaryEmbedding")
def rotary(call: Call, x: Any, cos_cache: Any, sin_cache: Any, positions: Any = None) -> torch.Tensor:
    """Rotary embedding of opset 23: tables by position, or one row for each token."""
    x, cos, sin = tensor(x), tensor(cos_cache), tensor(sin_cache)
    flat = x.dim() == 3
    x = heads(x, call.attr("num_heads")) if flat else x
    if positions is not None:
        cos, sin = F.embedding(tensor(positions), cos), F.embedding(tensor(positions), sin)
    result = rotate(x, cos.unsqueeze(1), sin.unsqueeze(1), bool(call.attr("interleaved", 0)))
    return merged(result) if flat else result
