"""Scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import torch

from graphwright.ir.node import bound
from graphwright.lowering.checks import plain_attention
from graphwright.lowering.onnx.attention_inputs import appended, flat, is_flat, split_heads
from graphwright.lowering.onnx.in_place import attend_in_place
from graphwright.lowering.onnx.shapes import expanded
from graphwright.lowering.onnx.shared import attend_shared
from graphwright.lowering.onnx.sizes import expression
from graphwright.lowering.onnx.table import Emission, register

aten = torch.ops.aten


@register(aten.scaled_dot_product_attention.default, validate=plain_attention)
def attention(
    b: Emission,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    attn_mask: ir.Value | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> ir.Value:
    """Attention: its own operator from opset 23, products and a softmax before.

    The operator takes the cache and what is appended to it apart, so that the keys are read while they are copied, and
    heads side by side, so that they are not transposed. In the dialect of ONNX Runtime grouped heads are products: its
    operator repeats keys and values first; and attention without a mask or a cache is `MultiHeadAttention`.
    """
    shapes = [b.shape(part) for part in (query, key, value)]
    mask = None if attn_mask is None else _mask(b, attn_mask, shapes[0][-2], shapes[1][-2])
    flat = len(shapes[0]) == 3
    if flat:
        query, key, value = (b.op("Unsqueeze", part, b.axes(1)) for part in (query, key, value))
        if attn_mask is not None and b.rank(attn_mask) == 3:
            mask = b.op("Unsqueeze", mask, b.axes(1))
    grouped = len(shapes[0]) == 4 and expression(shapes[0][1]) != expression(shapes[1][1])
    products = b.dialect == "ort" and grouped and b.total is None
    if b.opset < 23 or products or b.result.dtype == torch.float64:  # ONNX Runtime computes double attention in float
        result = _decomposed(b, (query, key, value), shapes, mask, is_causal, scale)
    elif flat:
        result = b.op("Attention", query, key, value, mask, is_causal=int(is_causal) or None, scale=scale)
    else:
        result = _operator(b, (query, key, value), mask, is_causal, scale)
    return b.op("Squeeze", result, b.axes(1)) if flat else result


def _operator(
    b: Emission, parts: tuple[ir.Value, ...], mask: ir.Value | None, causal: bool, scale: float | None
) -> ir.Value:
    """One operator for `[batch, heads, length, size]`, in the layout that its inputs have."""
    assert b.node is not None
    arguments = bound(b.node)
    nodes = [arguments[name] for name in ("query", "key", "value")]
    if nodes[1] in b.shared:
        return attend_shared(b, nodes, mask, scale)
    caches = [None if causal else appended(node) for node in nodes[1:]]
    if None not in caches:
        nodes[1:] = [cache.new for cache in caches if cache]
    if b.dialect == "ort" and mask is None and not causal and all(map(is_flat, nodes)) and None in caches:
        return split_heads(b, _multi_head(b, nodes, scale))
    if b.total is not None and mask is not None and None not in caches:
        return split_heads(b, attend_in_place(b, nodes, [cache for cache in caches if cache], mask, scale))
    options = {"is_causal": int(causal) or None, "scale": scale}
    past = [b.value_of(cache.past) for cache in caches if cache] if None not in caches else []
    side_by_side = all(map(is_flat, nodes))
    values = [flat(b, node) if side_by_side else b.value_of(node) for node in nodes]
    if side_by_side:
        options |= {"q_num_heads": b.shape(parts[0])[1], "kv_num_heads": b.shape(parts[1])[1]}
    dtypes = [b.result.dtype] * (3 if past else 1)
    result, *presents = b.ops("Attention", *values, mask, *past, dtypes=dtypes, **options)
    for cache, present in zip(caches if past else (), presents, strict=True):
        assert cache is not None
        b.stands_for(b.value_of(cache.total), present)
    return split_heads(b, result) if side_by_side else result


def _multi_head(b: Emission, nodes: list[Any], scale: float | None) -> ir.Value:
    """ONNX Runtime's own operator, which goes over long sequences in blocks."""
    heads = int(nodes[0].meta["val"].shape[1])
    values = [flat(b, node) for node in nodes]
    return b.op("com.microsoft::MultiHeadAttention", *values, num_heads=heads, scale=scale)


def _mask(b: Emission, mask: ir.Value, queries: Any, keys: Any) -> ir.Value:
    """A mask as `Attention` takes it: as many rows as queries, as many columns as keys.

    A row of nothing but the smallest finite number gives the mean of all values in torch; ONNX Runtime takes the
    smallest number for minus infinity and gives zeros, so a number just above takes its place.
    """
    shape = list(b.shape(mask))
    rows = [*shape[:-2], queries, keys]
    fake = b.fake(mask)
    if fake.dtype != torch.bool:
        lowest = torch.finfo(fake.dtype).min
        is_lowest = b.op("Equal", mask, b.const(lowest, fake.dtype), dtype=torch.bool)
        mask = b.op("Where", is_lowest, b.const(lowest * 0.99, fake.dtype), mask, dtype=fake.dtype)
    same = [expression(size) for size in shape] == [expression(size) for size in rows]
    return mask if same else expanded(b, mask, shape, rows)


def _decomposed(
    b: Emission,
    parts: tuple[ir.Value, ...],
    shapes: list[Any],
    mask: ir.Value | None,
    causal: bool,
    scale: float | None,
) -> ir.Value:
    """`softmax(q @ k.T * scale + mask) @ v`; a row without any key gives zeros, as in torch."""
    query, key, value = parts
    dtype = b.result.dtype
    factor = 1 / math.sqrt(shapes[0][-1]) if scale is None else scale
    heads, key_heads = shapes[0][-3], shapes[1][-3]
    grouped = len(shapes[0]) == 4 and expression(heads) != expression(key_heads)
    scaled = b.op("Mul", query, b.const(factor, dtype))
    if grouped:
        scaled = b.op("Reshape", scaled, b.const([0, key_heads, -1, shapes[0][-1]]))
    scores = b.op("MatMul", scaled, b.op("Transpose", key, perm=[0, 1, 3, 2]))
    if grouped:
        scores = b.op("Reshape", scores, b.const([0, heads, -1, 0]))
    allowed = _allowed(b, mask, shapes[0][-2], shapes[1][-2]) if causal else mask
    if allowed is not None:
        if allowed.dtype == ir.DataType.BOOL:
            allowed = b.op("Where", allowed, b.const(0, dtype), b.const(-torch.inf, dtype), dtype=dtype)
        scores = b.op("Add", scores, allowed)
    weights = b.op("Softmax", scores, axis=-1)
    if allowed is not None:
        empty = b.op("IsNaN", weights, dtype=torch.bool)
        weights = b.op("Where", empty, b.const(0, dtype), weights, dtype=dtype)
    if not grouped:
        return b.op("MatMul", weights, value)
    weights = b.op("Reshape", weights, b.const([0, key_heads, -1, 0]))
    return b.op("Reshape", b.op("MatMul", weights, value), b.const([0, heads, -1, shapes[2][-1]]))


def _allowed(b: Emission, mask: ir.Value | None, queries: Any, keys: Any) -> ir.Value:
    """True where a query may see a key: on and below the diagonal that starts top left."""
    assert mask is None, "torch does not take a mask together with is_causal"
    rows, columns = (b.op("Range", b.const(0), b.sizes.scalar(size), b.const(1)) for size in (queries, keys))
    return b.op("GreaterOrEqual", b.op("Unsqueeze", rows, b.axes(1)), columns, dtype=torch.bool)
