"""Operators of ONNX Runtime's own domain that exporters and optimizers emit for transformers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from graphwright.frontends.onnx.attention import both, causal, heads, merged, rotate
from graphwright.frontends.onnx.normalization import optional
from graphwright.frontends.onnx.table import Call, register
from graphwright.frontends.onnx.values import tensor

MICROSOFT = "com.microsoft"


@register("Gelu", "BiasGelu", domain=MICROSOFT)
def gelu(call: Call, x: Any, bias: Any = None) -> torch.Tensor:
    """Exact GELU, after a bias by option."""
    return F.gelu(tensor(x) if bias is None else tensor(x) + tensor(bias))


@register("FastGelu", domain=MICROSOFT)
def fast_gelu(call: Call, x: Any, bias: Any = None) -> torch.Tensor:
    """GELU by tanh, after a bias by option."""
    return F.gelu(tensor(x) if bias is None else tensor(x) + tensor(bias), approximate="tanh")


@register("QuickGelu", domain=MICROSOFT)
def quick_gelu(call: Call, x: Any) -> torch.Tensor:
    """Swish: x * sigmoid(alpha * x)."""
    x = tensor(x)
    return x * torch.sigmoid(x * call.attr("alpha", 1.702))


@register("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_norm(call: Call, x: Any, skip: Any, gamma: Any, beta: Any = None, bias: Any = None) -> Any:
    """Layer norm of a sum, and by option the sum."""
    total = _sum(x, skip, bias)
    weight, eps = tensor(gamma), call.attr("epsilon", 1e-5)
    return _with_sum(call, F.layer_norm(total, weight.shape, weight, optional(beta), eps), total)


@register("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_rms_norm(call: Call, x: Any, skip: Any, gamma: Any, bias: Any = None) -> Any:
    """RMS norm of a sum, and by option the sum."""
    total = _sum(x, skip, bias)
    weight = tensor(gamma)
    return _with_sum(call, F.rms_norm(total, weight.shape, weight, call.attr("epsilon", 1e-5)), total)


def _sum(x: Any, skip: Any, bias: Any) -> torch.Tensor:
    total = tensor(x) + tensor(skip)
    return total if bias is None else total + tensor(bias)


def _with_sum(call: Call, result: torch.Tensor, total: torch.Tensor) -> Any:
    return result if call.outputs == 1 else (result, None, None, total)


@register("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_norm(
    call: Call, ids: Any, segments: Any, words: Any, places: Any, kinds: Any = None, gamma: Any = None,
    beta: Any = None, mask: Any = None, positions: Any = None,
) -> Any:  # fmt: skip
    """Layer norm of the sum of token, position and segment embeddings."""
    ids = tensor(ids)
    where = torch.arange(ids.shape[1])[None] if positions is None else tensor(positions)
    total = F.embedding(ids, tensor(words)) + F.embedding(where, tensor(places))
    if segments is not None and kinds is not None:
        total = total + F.embedding(tensor(segments), tensor(kinds))
    weight = tensor(gamma)
    result = F.layer_norm(total, weight.shape, weight, optional(beta), call.attr("epsilon", 1e-12))
    if call.outputs == 1:
        return result
    lengths = None if mask is None else tensor(mask).sum(1, dtype=torch.int32)
    return (result, lengths, total)[: call.outputs]


@register("RotaryEmbedding", domain=MICROSOFT)
def rotary(call: Call, x: Any, positions: Any, cos_cache: Any, sin_cache: Any) -> torch.Tensor:
    """Rotary embedding by position, or from one first position on."""
    x, cos, sin, where = tensor(x), tensor(cos_cache), tensor(sin_cache), tensor(positions)
    flat = x.dim() == 3
    if flat:
        x = heads(x, call.attr("num_heads", 0) or x.shape[-1] // (2 * cos.shape[-1]))
    if where.dim() == 1:
        where = (where + torch.arange(x.shape[2]))[None]
    cos, sin = (F.embedding(where, table).unsqueeze(1) for table in (cos, sin))
    result = rotate(x, cos, sin, bool(call.attr("interleaved", 0)))
    return merged(result) if flat else result


@register("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(
    call: Call, q: Any, k: Any, v: Any, bias: Any = None, padding: Any = None, scores_bias: Any = None,
    past_key: Any = None, past_value: Any = None,
) -> Any:  # fmt: skip
    """Attention of [batch, sequence, hidden] queries, keys and values."""
    count = call.attr("num_heads")
    if k is None or v is None or tensor(q).dim() != 3:
        raise call.unsupported("packed queries, keys and values")
    query, key, value = tensor(q), tensor(k), tensor(v)
    if bias is not None:
        sizes = [query.shape[-1], query.shape[-1], tensor(bias).shape[0] - 2 * query.shape[-1]]
        parts = tensor(bias).split(sizes)
        query, key, value = query + parts[0], key + parts[1] if key.dim() == 3 else key, value + parts[2]
    query, key, value = heads(query, count), *(heads(x, count) if x.dim() == 3 else x for x in (key, value))
    if past_key is not None:
        key, value = torch.cat([tensor(past_key), key], 2), torch.cat([tensor(past_value), value], 2)
    mask = None if scores_bias is None else tensor(scores_bias)
    if padding is not None:
        mask = _padding(call, tensor(padding), key.shape[2], mask)
    is_causal = bool(call.attr("unidirectional", 0))
    if is_causal and (mask is not None or past_key is not None):
        seen = causal(query.shape[2], key.shape[2], key.shape[2] - query.shape[2])
        mask, is_causal = seen if mask is None else mask.masked_fill(~seen, -torch.inf), False
    scale = call.attr("scale") or None
    result = merged(F.scaled_dot_product_attention(query, key, value, mask, is_causal=is_causal, scale=scale))
    return result if call.outputs == 1 else (result, key, value)


def _padding(call: Call, padding: torch.Tensor, keys: Any, bias: torch.Tensor | None) -> torch.Tensor:
    """The key padding of MultiHeadAttention as a mask, added to the scores where there is a bias."""
    if padding.dim() == 1:
        keep = (torch.arange(keys) < padding[:, None])[:, None, None]
    elif padding.dim() == 2:
        keep = padding.to(torch.bool)[:, None, None]
    else:
        keep = padding.to(torch.bool)[:, None]
    lowest = call.attr("mask_filter_value", -10000.0)
    if bias is None:
        return keep
    return bias + torch.where(keep, 0.0, lowest).to(bias.dtype)


@register("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(
    call: Call, q: Any, k: Any, v: Any, past_key: Any, past_value: Any, lengths: Any, total: Any, cos: Any = None,
    sin: Any = None, positions: Any = None, bias: Any = None, *others: Any,
) -> Any:  # fmt: skip
    """Causal attention with grouped heads and a cache; every row of the batch is as long as the longest."""
    if positions is not None or any(part is not None for part in others):
        raise call.unsupported("positions or sinks as inputs")
    if k is None:
        raise call.unsupported("packed queries, keys and values")
    if call.attr("local_window_size", -1) != -1 or call.attr("softcap", 0.0):
        raise call.unsupported("a local window or soft-capping")
    query = heads(tensor(q), call.attr("num_heads"))
    key, value = (heads(tensor(x), call.attr("kv_num_heads")) for x in (k, v))
    past = tensor(past_key).shape[2]
    if call.attr("do_rotary", 0):
        turned = bool(call.attr("rotary_interleaved", 0))
        rows = past + torch.arange(query.shape[2])
        cos, sin = (F.embedding(rows[None], tensor(table)).unsqueeze(1) for table in (cos, sin))
        query, key = rotate(query, cos, sin, turned), rotate(key, cos, sin, turned)
    key, value = torch.cat([tensor(past_key), key], 2), torch.cat([tensor(past_value), value], 2)
    mask = causal(query.shape[2], key.shape[2], past)
    mask = mask & (torch.arange(key.shape[2]) <= tensor(lengths).reshape(-1)[:, None, None, None])
    mask = mask if bias is None else both(tensor(bias), mask)
    grouped, scale = query.shape[1] != key.shape[1], call.attr("scale") or None
    result = F.scaled_dot_product_attention(query, key, value, mask, scale=scale, enable_gqa=grouped)
    return merged(result), key, value
