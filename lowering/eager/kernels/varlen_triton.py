# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
"""Attention of packed tokens in Triton: queries, keys and values are read where a merged projection has left them.

Each program computes a block of queries of one head of one sequence, and keeps a running softmax over blocks of keys.
A bias is read at the columns that the tokens had before packing.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _attend(
    q, most, total, acc, begin, key_stop, k_ptr, v_ptr, keys_ptr, columns, row_place, is_query, scale, k_token, v_token,
    WIDTH: tl.constexpr, VALUES: tl.constexpr, BW: tl.constexpr, BV: tl.constexpr, BN: tl.constexpr,
    BIAS: tl.constexpr, CHOSEN: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """The running softmax after another block of keys; with WHOLE, all of them belong to the sequence."""
    keys = begin + tl.arange(0, BN)
    is_key = keys < key_stop
    w = tl.arange(0, BW)
    vw = tl.arange(0, BV)
    spot = tl.load(keys_ptr + keys, mask=is_key, other=0) if CHOSEN else keys.to(tl.int64)
    k_place = spot[None, :] * k_token + w[:, None]
    v_place = spot[:, None] * v_token + vw[None, :]
    if WHOLE and BW == WIDTH:
        k = tl.load(k_ptr + k_place)
    else:
        k = tl.load(k_ptr + k_place, mask=is_key[None, :] & (w < WIDTH)[:, None], other=0.0)
    scores = tl.dot(q, k)
    if BIAS > 0:
        scores *= scale
        column = tl.load(columns + spot, mask=is_key, other=0)
        both = is_query[:, None] & is_key[None, :]
        term = tl.load(row_place[:, None] + column[None, :], mask=both, other=0.0)
        if BIAS == 1:
            scores += term.to(tl.float32) * 1.4426950408889634
        else:
            scores = tl.where(term != 0, scores, float("-inf"))
    if not WHOLE:
        scores = tl.where(is_key[None, :], scores, float("-inf"))
    if BIAS > 0:
        high = tl.maximum(most, tl.max(scores, 1))
        base = tl.where(high == float("-inf"), 0.0, high)  # nothing is kept so far
        weights = tl.exp2(scores - base[:, None])
    else:
        high = tl.maximum(most, tl.max(scores, 1) * scale)
        base = high
        weights = tl.exp2(scores * scale - base[:, None])
    shrink = tl.exp2(most - base)
    total = total * shrink + tl.sum(weights, 1)
    if WHOLE and BV == VALUES:
        v = tl.load(v_ptr + v_place)
    else:
        v = tl.load(v_ptr + v_place, mask=is_key[:, None] & (vw < VALUES)[None, :], other=0.0)
    acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None])
    return high, total, acc


@triton.jit
def _varlen(
    q_ptr, k_ptr, v_ptr, out, offsets, key_offsets, keys_ptr, bias, columns, scale,
    q_head, q_token, k_head, k_token, v_head, v_token, out_head, out_token, bias_head, bias_row,
    WIDTH: tl.constexpr, VALUES: tl.constexpr, BW: tl.constexpr, BV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BIAS: tl.constexpr, CHOSEN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(2)
    head = tl.program_id(1)
    start = tl.load(offsets + row)
    stop = tl.load(offsets + row + 1)
    first = start + tl.program_id(0) * BM
    if first < stop:
        key_start = tl.load(key_offsets + row)
        key_stop = tl.load(key_offsets + row + 1)
        queries = first + tl.arange(0, BM)
        is_query = queries < stop
        w = tl.arange(0, BW)
        vw = tl.arange(0, BV)
        place = queries.to(tl.int64)[:, None] * q_token + head * q_head + w[None, :]
        q = tl.load(q_ptr + place, mask=is_query[:, None] & (w < WIDTH)[None, :], other=0.0)
        most = tl.full([BM], float("-inf"), tl.float32)
        total = tl.zeros([BM], tl.float32)
        acc = tl.zeros([BM, BV], tl.float32)
        row_place = bias
        if BIAS > 0:
            row_place = bias + head * bias_head + tl.load(columns + queries, mask=is_query, other=0) * bias_row
        k_ptr += head * k_head
        v_ptr += head * v_head
        whole = key_start + (key_stop - key_start) // BN * BN
        for begin in range(key_start, whole, BN):
            most, total, acc = _attend(
                q, most, total, acc, begin, key_stop, k_ptr, v_ptr, keys_ptr, columns, row_place, is_query, scale,
                k_token, v_token, WIDTH, VALUES, BW, BV, BN, BIAS, CHOSEN, True,
            )  # fmt: skip
        if whole < key_stop:
            most, total, acc = _attend(
                q, most, total, acc, whole, key_stop, k_ptr, v_ptr, keys_ptr, columns, row_place, is_query, scale,
                k_token, v_token, WIDTH, VALUES, BW, BV, BN, BIAS, CHOSEN, False,
            )  # fmt: skip
        acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
        place = queries.to(tl.int64)[:, None] * out_token + head * out_head + vw[None, :]
        tl.store(out + place, acc.to(out.dtype.element_ty), mask=is_query[:, None] & (vw < VALUES)[None, :])


def block_sizes(length: int, width: int) -> tuple[int, int, int, int]:
    """(queries, keys, warps, stages) of a program; measured on an H100."""
    if width > 128:
        return 64, 32, 4, 2
    return (64, 32, 4, 3) if length <= 192 else (64, 64, 4, 3)


def launch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    offsets: Tensor,
    key_offsets: Tensor,
    length: int,
    scale: float,
    keys: Tensor | None = None,
    bias: Tensor | None = None,
    columns: Tensor | None = None,
    sizes: tuple[int, int, int, int] | None = None,
) -> Tensor:
    """Run the kernel.

    Args:
        query: [1, heads, tokens, width], as key and value, each with elements of a token side by side. Tokens after the
            last of `offsets` belong to no sequence; what they get is undefined.
        key: [1, heads, tokens, width].
        value: [1, heads, tokens, value width].
        offsets: [rows + 1], int32.
        key_offsets: [rows + 1], int32.
        length: Upper bound of the tokens of a row.
        scale: Factor of the scores, positive.
        keys: Which tokens are keys, int64; None for all.
        bias: [1, heads or 1, length, length], the last axis dense: added, or (boolean) true where a key is kept.
        columns: [tokens], int64, where each stood in its row; only with a bias.
        sizes: Queries, keys, warps and stages of a program, by default those of `block_sizes`.

    Returns:
        [1, heads, tokens, value width], the heads of a token side by side.
    """
    query, key, value = (tensor if tensor.stride(3) == 1 else tensor.contiguous() for tensor in (query, key, value))
    _, heads, tokens, width = query.shape
    values = value.shape[3]
    out = query.new_empty([1, tokens, heads, values]).transpose(1, 2)
    bm, bn, warps, stages = sizes or block_sizes(length, max(width, values))
    kind, strides = 0, (0, 0)
    if bias is not None:
        bias = bias if bias.stride(3) == 1 else bias.contiguous()
        kind = 2 if bias.dtype == torch.bool else 1
        strides = (bias.stride(1) if bias.shape[1] > 1 else 0, bias.stride(2))
    grid = (triton.cdiv(length, bm), heads, offsets.numel() - 1)
    if tokens:
        _varlen[grid](
            query, key, value, out, offsets, key_offsets, offsets if keys is None else keys,
            offsets if bias is None else bias, offsets if columns is None else columns, scale * math.log2(math.e),
            query.stride(1), query.stride(2), key.stride(1), key.stride(2), value.stride(1), value.stride(2),
            out.stride(1), out.stride(2), *strides,
            WIDTH=width, VALUES=values, BW=max(triton.next_power_of_2(width), 16),
            BV=max(triton.next_power_of_2(values), 16), BM=bm, BN=bn, BIAS=kind,
            CHOSEN=keys is not None, num_warps=warps, num_stages=stages,
        )  # fmt: skip
    return out
