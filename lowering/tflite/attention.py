"""Scaled dot-product attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from graphwright.lowering.checks import plain_attention
from graphwright.lowering.tflite.builder import Builder
from graphwright.lowering.tflite.graph import Value
from graphwright.lowering.tflite.matmul import batch_matmul
from graphwright.lowering.tflite.table import register

aten = torch.ops.aten


@register(aten.scaled_dot_product_attention.default, validate=plain_attention)
def attention(
    b: Builder, query: Value, key: Value, value: Value, attn_mask: Value | None, dropout_p: float, is_causal: bool,
    scale: float | None, enable_gqa: bool,
) -> Value:  # fmt: skip
    """Two batched products around a softmax; heads that share keys become rows of one product."""
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    mask = _causal(b, query.shape[-2], key.shape[-2]) if is_causal else attn_mask
    added = None if mask is None else _added(b, mask, query.dtype)
    key, value = _unrepeated(b, key, value)
    if b.composites and query.rank == 4:
        made = _composite(b, query, key, value, added, factor)
    else:
        made = _grouped(b, query, key, value, added, factor)
    if mask is None or mask.dtype != "bool" or (mask.data is not None and mask.data.any(-1).all()):
        return made
    some = b.reduce("REDUCE_ANY", mask, [mask.rank - 1], True)  # a query without any key gets zeros
    return b.binary("MUL", made, b.cast(some, query.dtype))


def _unrepeated(b: Builder, key: Value, value: Value) -> tuple[Value, Value]:
    """Keys and values before each head was repeated for the query heads that read it."""
    sources = [_before_repetition(b, part) for part in (key, value)]
    if sources[0] is None or sources[1] is None or sources[0].shape[1] != sources[1].shape[1]:
        return key, value
    return sources[0], sources[1]


def _before_repetition(b: Builder, part: Value) -> Value | None:
    """`x` of `x[:, :, None].expand(..., n, ...).reshape(...)`, None if a value is something else."""
    reshape = b.producers.get(part)
    wide = reshape.inputs[0] if reshape is not None and reshape.code == "RESHAPE" else None
    expand = None if wide is None else b.producers.get(wide)
    source = expand.inputs[0] if expand is not None and expand.code == "BROADCAST_TO" else None
    if part.rank != 4 or wide is None or source is None or wide.rank != 5:
        return None
    batch, heads, times, length, width = wide.shape
    repeated = source.shape == (batch, heads, 1, length, width) and part.shape == (batch, heads * times, length, width)
    return b.reshape(source, [batch, heads, length, width]) if repeated else None


def _composite(b: Builder, query: Value, key: Value, value: Value, mask: Value | None, factor: float) -> Value:
    """Attention as the composite of its name, whose inputs and result have the heads behind the length."""
    swapped = (0, 2, 1, 3)
    if mask is None:  # without a mask the composite means a causal one
        mask = b.const(np.zeros((1, 1, query.shape[2], key.shape[2])), query.dtype)
    mask = b.reshape(mask, (1,) * (4 - mask.rank) + mask.shape)

    def body(inner: Builder, values: Sequence[Value]) -> Value:
        queries, keys, contents = (inner.transpose(part, swapped) for part in values[:3])
        return inner.transpose(_grouped(inner, queries, keys, contents, values[3], factor), swapped)

    inputs = [*(b.transpose(part, swapped) for part in (query, key, value)), mask]
    return b.transpose(b.composite("odml.scaled_dot_product_attention", inputs, {"scale": factor}, body), swapped)


def _causal(b: Builder, queries: int, keys: int) -> Value:
    return b.const(np.tril(np.ones((queries, keys), bool)), "bool")


def _grouped(b: Builder, query: Value, key: Value, value: Value, mask: Value | None, factor: float) -> Value:
    """Attention; query heads that read one head of keys are stacked along the rows."""
    scaled = query if factor == 1 else b.binary("MUL", query, b.const(factor, query.dtype))
    groups = query.shape[-3] // key.shape[-3] if query.rank > 3 else 1
    if groups == 1:
        return attended(b, scaled, key, value, mask)
    batch, heads, rows, width = query.shape
    stacked = b.reshape(scaled, [batch, heads // groups, groups * rows, width])
    mask = mask and _stacked(b, mask, heads, groups, rows)
    return b.reshape(attended(b, stacked, key, value, mask), [batch, heads, rows, value.shape[-1]])


def _stacked(b: Builder, mask: Value, heads: int, groups: int, rows: int) -> Value:
    """A mask for query heads that are stacked along the rows."""
    mask = b.reshape(mask, (1,) * (4 - mask.rank) + mask.shape)
    if mask.shape[1] > 1:
        batch, _, _, keys = mask.shape
        wide = b.expand(mask, [batch, heads, rows, keys])
        return b.reshape(wide, [batch, heads // groups, groups * rows, keys])
    if mask.shape[2] == 1:
        return mask
    if mask.data is not None:
        return b.const(np.tile(mask.data, (1, 1, groups, 1)), mask.dtype)
    batch, _, _, keys = mask.shape
    return b.op("TILE", [mask, b.const([1, 1, groups, 1])], [batch, 1, groups * rows, keys], mask.dtype)


def attended(b: Builder, query: Value, key: Value, value: Value, mask: Value | None) -> Value:
    """`softmax(query @ key.T + mask) @ value`."""
    swapped = b.transpose(key, [*range(key.rank - 2), key.rank - 1, key.rank - 2])
    scores = batch_matmul(b, query, swapped)
    if mask is not None:
        scores = b.binary("ADD", scores, mask)
    weights = b.op("SOFTMAX", [scores], scores.shape, scores.dtype, beta=1.0)
    return batch_matmul(b, weights, value)


def _added(b: Builder, mask: Value, dtype: str) -> Value:
    """A mask as a number added to the scores."""
    if mask.dtype != "bool":
        return b.cast(mask, dtype)
    lowest = float(np.finfo(dtype).min)
    if mask.data is not None:
        return b.const(np.where(mask.data, 0.0, lowest), dtype)
    return b.select(mask, b.const(0.0, dtype), b.const(lowest, dtype))
