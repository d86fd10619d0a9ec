"""Scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphwright.lowering.checks import plain_attention
from graphwright.lowering.openvino.builder import Builder, Size, Value, op, same
from graphwright.lowering.openvino.table import register

aten = torch.ops.aten


@register(aten.scaled_dot_product_attention.default, validate=plain_attention)
def attention(
    b: Builder, query: Value, key: Value, value: Value, attn_mask: Value | None, dropout_p: float, is_causal: bool,
    scale: float | None, enable_gqa: bool,
) -> Any:  # fmt: skip
    """Attention as OpenVINO's own operator; grouped heads are repeated by a broadcast, which its plugins undo."""
    keys, values = (_repeated(b, part, query.shape) for part in (key, value))
    mask, dtype = attn_mask, query.dtype
    factor = 1 / math.sqrt(int(query.shape[-1])) if scale is None else scale
    allowed = None if mask is None else _added(b, mask, dtype)
    usual = abs(factor * math.sqrt(int(query.shape[-1])) - 1) < 1e-12
    if allowed is None and not usual:  # the operator takes a scale only after a mask
        allowed = b.const([[0.0]], dtype)
    number = None if usual else b.const(factor, dtype)
    result = op.scaled_dot_product_attention(query.out, keys, values, allowed, number, is_causal)
    if mask is None or mask.dtype is not torch.bool:
        return result
    # torch gives zeros to a query without any key
    some = op.reduce_logical_or(mask.out, b.const([-1], torch.int32), True)
    return op.multiply(result, b.cast(some.output(0), dtype))


def _added(b: Builder, mask: Value, dtype: torch.dtype) -> Any:
    """A mask as a number added to the scores."""
    if mask.dtype is not torch.bool:
        return b.cast(mask, dtype)
    return op.select(mask.out, b.const(0.0, dtype), b.const(torch.finfo(dtype).min, dtype)).output(0)


def _repeated(b: Builder, part: Value, query: tuple[Size, ...]) -> Any:
    """Keys or values for every query head."""
    if part.rank < 4 or same(part.shape[-3], query[-3]):
        return part.out
    heads, times = int(part.shape[-3]), int(query[-3]) // int(part.shape[-3])
    wide = b.unsqueeze(part.out, 2)
    shape = [part.shape[0], heads, times, part.shape[2], part.shape[3]]
    wide = op.broadcast(wide, b.vector(shape), broadcast_spec="BIDIRECTIONAL").output(0)
    return op.reshape(wide, b.const([0, heads * times, -1, int(part.shape[3])]), True).output(0)
