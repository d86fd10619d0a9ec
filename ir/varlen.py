"""Kernels of `graphwright::varlen_attention`.

On a GPU in half precision, flash attention reads the sequences where they lie. Elsewhere each run of sequences of
equal length is one dense attention; a batch without padding is one run. A batch of which every token is computed is
one dense attention, too, with a mask of its padding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# Most copies of its last token that a plan may have: they make the queries of a row longer than its columns.
MAX_COPIES = 256


@dataclass(frozen=True)
class Plan:
    """Which tokens there are and where their sequences start; see `graphwright.ir.packing`."""

    tokens: Tensor
    offsets: Tensor
    keys: Tensor
    key_offsets: Tensor
    length: int


@dataclass(frozen=True)
class Options:
    """The scalar arguments of the attention."""

    scale: float
    uniform: bool
    dropout_p: float
    seed: Tensor | None


def varlen_forward(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, plan: Plan, options: Options
) -> Tensor:
    """The attention; see `graphwright.ir.packing.varlen_attention`."""
    has_others = plan.keys.numel() < plan.tokens.numel()
    is_plain = bias is None and options.dropout_p == 0 and not (options.uniform and has_others)
    if is_plain and _has_flash(query, value):
        return _flash(query, _chosen(key, plan), _chosen(value, plan), plan, options.scale)
    with _seeded(options.seed, query.device) if options.dropout_p else contextlib.nullcontext():
        if has_others and bias is None and _is_whole(plan):
            return _masked(query, key, value, plan, options)
        return _by_runs(query, _chosen(key, plan), _chosen(value, plan), bias, plan, options, value)


def _chosen(packed: Tensor, plan: Plan) -> Tensor:
    """The real ones of packed keys or values."""
    return packed.index_select(2, plan.keys) if plan.keys.numel() < plan.tokens.numel() else packed


def varlen_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, plan: Plan, options: Options
) -> tuple[Tensor | None, ...]:
    """Gradients of query, key, value and bias; the attention is computed again."""
    differentiable = [query, key, value] + ([bias] if bias is not None and bias.is_floating_point() else [])
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in differentiable]
        result = varlen_forward(leaves[0], leaves[1], leaves[2], leaves[3] if len(leaves) > 3 else bias, plan, options)
        found = torch.autograd.grad(result, leaves, gradient, allow_unused=True)
    given = [torch.zeros_like(leaf) if part is None else part for leaf, part in zip(leaves, found, strict=True)]
    return (*given, None)[:4]


@contextlib.contextmanager
def _seeded(seed: Tensor | None, device: torch.device) -> Iterator[None]:
    """Inside, random numbers start from `seed`; afterwards they go on as if nothing had happened."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0 if seed is None else int(seed))
        yield


# ---- flash attention --------------------------------------------------------------------------


@cache
def _flash_op() -> Any:
    """`torch.nn.attention.varlen.varlen_attn`, None where this torch or GPU lacks it."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def _has_flash(query: Tensor, value: Tensor) -> bool:
    width = query.shape[-1]
    is_half = query.dtype in (torch.float16, torch.bfloat16)
    return query.is_cuda and is_half and value.shape[-1] == width and width % 8 == 0 and _flash_op() is not None


def _flash(query: Tensor, key: Tensor, value: Tensor, plan: Plan, scale: float) -> Tensor:
    """Flash attention takes [tokens, heads, width]; `length` bounds the sequences, so nothing is read back."""
    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    most = plan.length + MAX_COPIES
    result = _flash_op()(q, k, v, plan.offsets, plan.key_offsets, most, plan.length, scale=scale)
    return result.transpose(0, 1).unsqueeze(0)


# ---- every token ------------------------------------------------------------------------------


def _is_whole(plan: Plan) -> bool:
    """Whether every token is computed and every row has a real one."""
    rows = plan.offsets.numel() - 1
    return plan.tokens.numel() == rows * plan.length and bool(plan.key_offsets.diff().all())


def _masked(query: Tensor, key: Tensor, value: Tensor, plan: Plan, options: Options) -> Tensor:
    """One dense attention with a mask of the padding."""
    rows = plan.offsets.numel() - 1
    keep = torch.zeros_like(plan.tokens, dtype=torch.bool).index_fill(0, plan.keys, True).view(rows, 1, 1, -1)
    q, k, v = (_rows(part, rows) for part in (query, key, value))
    result = scaled_dot_product_attention(q, k, v, keep, options.dropout_p, scale=options.scale)
    return result.transpose(1, 2).flatten(0, 1).unsqueeze(0).transpose(1, 2)


# ---- runs of equal length ---------------------------------------------------------------------


def _by_runs(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, plan: Plan, options: Options, own_values: Tensor
) -> Tensor:
    """One dense attention for each run of neighbouring sequences with as many tokens and as many keys."""
    starts, key_starts = plan.offsets.tolist(), plan.key_offsets.tolist()
    columns = None if bias is None else plan.tokens.remainder(plan.length)
    key_columns = None if columns is None else columns.index_select(0, plan.keys)
    parts = []
    for first, last in runs(starts, key_starts):
        q, k, rows = slice(starts[first], starts[last]), slice(key_starts[first], key_starts[last]), last - first
        if k.start == k.stop:
            part = _without_keys(_rows(own_values[:, :, q], rows), options.uniform)
        else:
            term = None if bias is None else _bias_of(bias, columns[q], key_columns[k], rows)  # type: ignore[index]
            operands = (_rows(query[:, :, q], rows), _rows(key[:, :, k], rows), _rows(value[:, :, k], rows))
            part = scaled_dot_product_attention(*operands, term, options.dropout_p, scale=options.scale)
        parts.append(part.transpose(1, 2).flatten(0, 1))
    if not parts:
        return query.new_zeros([1, 0, query.shape[1], value.shape[-1]]).transpose(1, 2)
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).unsqueeze(0).transpose(1, 2)


def runs(starts: list[int], key_starts: list[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring rows `first` to `last - 1` with as many tokens and keys as each other; empty rows are skipped."""
    first, rows = 0, len(starts) - 1
    sizes = [(starts[i + 1] - starts[i], key_starts[i + 1] - key_starts[i]) for i in range(rows)]
    while first < rows:
        last = first + 1
        while last < rows and sizes[last] == sizes[first]:
            last += 1
        if sizes[first][0]:
            yield first, last
        first = last


def _rows(packed: Tensor, rows: int) -> Tensor:
    """[1, heads, rows * tokens, width] -> [rows, heads, tokens, width]."""
    return packed if rows == 1 else packed.squeeze(0).unflatten(1, [rows, -1]).transpose(0, 1)


def _without_keys(values: Tensor, uniform: bool) -> Tensor:
    """What tokens see that have no key: the mean of their row's values, or 0."""
    return values.mean(2, keepdim=True).expand_as(values) if uniform else torch.zeros_like(values)


def _bias_of(bias: Tensor, columns: Tensor, key_columns: Tensor, rows: int) -> Tensor:
    """[rows, heads or 1, tokens, keys]: the bias at the columns that the tokens of each row come from."""
    pairs = zip(columns.unflatten(0, [rows, -1]), key_columns.unflatten(0, [rows, -1]), strict=True)
    return torch.stack([bias[0].index_select(1, of).index_select(2, to) for of, to in pairs])
