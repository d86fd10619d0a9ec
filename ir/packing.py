"""Ops on packed tokens: the tokens of a batch without the padding, one after the other.

| op | what it computes |
|---|---|
| `graphwright::token_plan` | which tokens to compute, and where each sequence starts among them |
| `graphwright::pack_tokens` | [batch, length, ...] -> [1, tokens, ...] |
| `graphwright::unpack_tokens` | [1, tokens, ...] -> [batch, length, ...], zero where there is no token |
| `graphwright::zero_padding` | 0 at the padded positions |
| `graphwright::varlen_attention` | attention of packed queries to the packed keys of their own sequence |

A plan is four tensors: `tokens` (int64, flat positions `row * length + column` of the tokens to compute, ascending),
`offsets` (int32, [batch + 1], where each row starts among them), `keys` (int64, which of the tokens are real, so that
others attend to them) and `key_offsets`. Mostly every token is real, and `keys` is `0, 1, 2, ...`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphwright.ir.varlen import Options, Plan, varlen_backward, varlen_forward

_LIBRARY = torch.library.Library("graphwright", "FRAGMENT")
PlanTensors = tuple[Tensor, Tensor, Tensor, Tensor]

_LIBRARY.define(
    "token_plan(Tensor keep, *, bool first=False, float least=0.0, float per_row=0.0)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)


def token_plan(keep: Tensor, *, first: bool = False, least: float = 0.0, per_row: float = 0.0) -> PlanTensors:
    """Choose the tokens to compute.

    Args:
        keep: [batch, length], boolean: which tokens are real.
        first: Compute the first token of each row even where it is padding, and all tokens of a row that has no real
            ones, since the first may depend on them.
        least: Compute everything where less than this fraction of the tokens is padding,
        per_row: or where there is less padding than this number of tokens in each row on average.

    Returns:
        `tokens`, `offsets`, `keys`, `key_offsets`.
    """
    chosen = keep
    if first:
        chosen = keep | ~keep.any(1, keepdim=True)
        chosen[:, :1] = True
    tokens = chosen.flatten().nonzero().flatten()
    saved = keep.numel() - tokens.numel()
    if saved <= max(least * keep.numel(), per_row * keep.shape[0]):
        chosen = torch.ones_like(keep)
        tokens = torch.arange(keep.numel(), device=keep.device)
    offsets = _offsets(chosen)
    if not first and tokens.numel() < keep.numel():  # then just the real tokens were chosen
        return tokens, offsets, torch.arange(tokens.numel(), device=keep.device), offsets.clone()
    keys = keep.flatten().index_select(0, tokens).nonzero().flatten()
    return tokens, offsets, keys, _offsets(keep)


def _offsets(chosen: Tensor) -> Tensor:
    """[batch + 1], int32: how many tokens come before each row."""
    counts = chosen.sum(1, dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return torch.nn.functional.pad(counts, (1, 0))


def _fake_plan(keep: Tensor, *, first: bool = False, least: float = 0.0, per_row: float = 0.0) -> PlanTensors:
    context = torch.library.get_ctx()
    tokens = keep.new_empty([context.new_dynamic_size()], dtype=torch.int64)
    keys = keep.new_empty([context.new_dynamic_size()], dtype=torch.int64)
    offsets = keep.new_empty([keep.shape[0] + 1], dtype=torch.int32)
    return tokens, offsets, keys, torch.empty_like(offsets)


_LIBRARY.impl("token_plan", token_plan, "CompositeExplicitAutograd")
torch.library.register_fake("graphwright::token_plan", _fake_plan, lib=_LIBRARY)


_LIBRARY.define("pack_tokens(Tensor x, Tensor tokens) -> Tensor")


def pack_tokens(x: Tensor, tokens: Tensor) -> Tensor:
    """[batch, length, ...] -> [1, tokens, ...]."""
    return x.flatten(0, 1).index_select(0, tokens).unsqueeze(0)


_LIBRARY.impl("pack_tokens", pack_tokens, "CompositeImplicitAutograd")


_LIBRARY.define("unpack_tokens(Tensor x, Tensor tokens, SymInt batch, SymInt length, Tensor? keys=None) -> Tensor")


def unpack_tokens(x: Tensor, tokens: Tensor, batch: int, length: int, keys: Tensor | None = None) -> Tensor:
    """[1, tokens, ...] -> [batch, length, ...]: put each token, or only those in `keys`, back; zero elsewhere."""
    x = x.squeeze(0)
    if keys is not None:
        x, tokens = x.index_select(0, keys), tokens.index_select(0, keys)
    flat = x.new_zeros([batch * length, *x.shape[1:]]).index_copy(0, tokens, x)
    return flat.unflatten(0, [batch, length])


_LIBRARY.impl("unpack_tokens", unpack_tokens, "CompositeImplicitAutograd")


_LIBRARY.define("zero_padding(Tensor x, Tensor keep) -> Tensor")


def zero_padding(x: Tensor, keep: Tensor) -> Tensor:
    """[batch, length, ...] -> the same, 0 where `keep` [batch, length] is false, whatever was there."""
    mask = keep.reshape([*keep.shape, *[1] * (x.dim() - 2)])
    return torch.where(mask, x, x.new_zeros([]))


_LIBRARY.impl("zero_padding", zero_padding, "CompositeImplicitAutograd")


_LIBRARY.define(
    "varlen_attention(Tensor query, Tensor key, Tensor value, Tensor tokens, Tensor offsets, Tensor keys,"
    " Tensor key_offsets, Tensor? bias=None, Tensor? seed=None, *, SymInt length, float scale,"
    " bool uniform=False, float dropout_p=0.0) -> Tensor"
)
_LIBRARY.define(
    "varlen_attention_backward(Tensor gradient, Tensor query, Tensor key, Tensor value, Tensor tokens, Tensor offsets,"
    " Tensor keys, Tensor key_offsets, Tensor? bias, Tensor? seed, *, SymInt length, float scale,"
    " bool uniform, float dropout_p) -> (Tensor, Tensor, Tensor, Tensor?)"
)


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tokens: Tensor,
    offsets: Tensor,
    keys: Tensor,
    key_offsets: Tensor,
    bias: Tensor | None = None,
    seed: Tensor | None = None,
    *,
    length: int,
    scale: float,
    uniform: bool = False,
    dropout_p: float = 0.0,
) -> Tensor:
    """`softmax(scale * query @ key^T + bias) @ value` within each sequence.

    Args:
        query: [1, heads, tokens, width].
        key: [1, heads, tokens, width]; only the tokens in `keys` are attended to.
        value: [1, heads, tokens, value width].
        tokens: The plan; see the module.
        offsets: The plan.
        keys: The plan.
        key_offsets: The plan.
        bias: [1, heads or 1, length, length], added to the scores of the tokens' own columns; boolean: keep where true.
        seed: [], int64: state of the random numbers where `dropout_p` is not 0.
        length: Length of the unpacked rows, an upper bound of each sequence.
        scale: Factor of the scores.
        uniform: A token of a row without real tokens gets the mean of the row's values instead of 0.
        dropout_p: Probability of dropping an attention weight.

    Returns:
        [1, heads, tokens, value width].
    """
    plan = Plan(tokens, offsets, keys, key_offsets, length)
    return varlen_forward(query, key, value, bias, plan, Options(scale, uniform, dropout_p, seed))


def _fake_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    one, heads, tokens = query.shape[:3]
    return query.new_empty([one, tokens, heads, value.shape[-1]]).transpose(1, 2)


def _backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, tokens: Tensor, offsets: Tensor, keys: Tensor,
    key_offsets: Tensor, bias: Tensor | None, seed: Tensor | None, *, length: int, scale: float, uniform: bool,
    dropout_p: float,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    plan = Plan(tokens, offsets, keys, key_offsets, length)
    return varlen_backward(gradient, query, key, value, bias, plan, Options(scale, uniform, dropout_p, seed))


def _fake_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **_: Any
) -> tuple[Tensor | None, ...]:
    bias = rest[4]
    has_gradient = bias is not None and bias.is_floating_point()
    return (*map(torch.empty_like, (query, key, value)), torch.empty_like(bias) if has_gradient else None)


def _save(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)
    ctx.options = dict(keyword_only_inputs)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    found = torch.ops.graphwright.varlen_attention_backward(gradient, *ctx.saved_tensors, **ctx.options)
    query, key, value, bias = found
    return query, key, value, None, None, None, None, bias, None


_LIBRARY.impl("varlen_attention", varlen_attention, "CompositeExplicitAutograd")
torch.library.register_fake("graphwright::varlen_attention", _fake_attention, lib=_LIBRARY)
torch.library.register_autograd("graphwright::varlen_attention", _gradients, setup_context=_save, lib=_LIBRARY)
_LIBRARY.impl("varlen_attention_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("graphwright::varlen_attention_backward", _fake_backward, lib=_LIBRARY)
