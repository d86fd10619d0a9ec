"""Attention of packed tokens on a GPU, with or without a bias, reading nothing back from it.

The reference is `graphwright::varlen_attention`, which runs wherever the kernel does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphwright.ir.varlen import Plan

MAX_WIDTH = 256


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tokens: Tensor,
    offsets: Tensor,
    keys: Tensor,
    key_offsets: Tensor,
    bias: Tensor | None,
    length: int,
    scale: float,
    chosen: bool,
) -> Tensor:
    """`graphwright::varlen_attention` without dropout.

    Tokens after the last of `offsets`, which a plan of fixed size has, belong to no sequence; what they get is
    undefined.

    Args:
        query: As the op's, and all others but the last.
        key: [1, heads, tokens, width].
        value: [1, heads, tokens, value width].
        tokens: The plan.
        offsets: The plan.
        keys: The plan.
        key_offsets: The plan.
        bias: [1, heads or 1, length, length].
        length: Upper bound of each sequence.
        scale: Factor of the scores.
        chosen: Tokens that are no keys may be among the first ones, whatever the sizes say.
    """
    if not query.is_cuda:
        return _reference(query, key, value, Plan(tokens, offsets, keys, key_offsets, length), bias, scale)
    from graphwright.lowering.eager.kernels.varlen_triton import launch

    some = keys if chosen or keys.numel() < tokens.numel() else None
    columns = None if bias is None else tokens.remainder(length)
    return launch(query, key, value, offsets, key_offsets, length, scale, some, bias, columns)


def _reference(query: Tensor, key: Tensor, value: Tensor, plan: Plan, bias: Tensor | None, scale: float) -> Tensor:
    """The op on the tokens that belong to a sequence; zeros for the others."""
    count, key_count = int(plan.offsets[-1]), int(plan.key_offsets[-1])
    q, k, v = (tensor[:, :, :count] for tensor in (query, key, value))
    tokens, keys = plan.tokens[:count], plan.keys[:key_count]
    result = torch.ops.graphwright.varlen_attention(
        q, k, v, tokens, plan.offsets, keys, plan.key_offsets, bias, length=plan.length, scale=scale
    )
    padded = torch.nn.functional.pad(result.transpose(1, 2), (0, 0, 0, 0, 0, query.shape[2] - count))
    return padded.transpose(1, 2)  # the heads of a token side by side, as the kernel leaves them
