"""Our own ops, only where ATen has none: each with a schema, a reference made of ATen ops, and its gradients.

| op | what it computes |
|---|---|
| `graphwright::attention` | attention that ATen's op cannot express: soft-capped scores, sinks |
| `graphwright::rotary_embedding` | rotary embedding of queries or keys, whole or partial, halves or interleaved |
| `packed_linear` | a linear whose weight is packed integer codes: `ir/packed.py` |
| `unpack_weight` | the weight that such codes stand for |
| `token_plan`, `pack_tokens`, `unpack_tokens`, `varlen_attention` | batches without their padding: `ir/packing.py` |
| `graphwright::require` | nothing: it refuses inputs whose values lead to another path than the captured one |

The references of those that compute are composite: autograd, fake tensors and torch.export see through them, and
`decompose` gives targets that lack the op the same ATen ops. `require` is an effect: no pass removes it.
"""

from __future__ import annotations

import torch

from graphwright.ir import packed as _packed  # noqa: F401 - defines packed_linear
from graphwright.ir import packing as _packing  # noqa: F401 - defines the ops on packed tokens
from graphwright.ir.errors import InputError

_LIBRARY = torch.library.Library("graphwright", "DEF")

_LIBRARY.define(
    "attention(Tensor query, Tensor key, Tensor value, Tensor? bias=None, *, float scale, float? softcap=None,"
    " Tensor? sinks=None, float dropout_p=0.0, bool is_causal=False, bool enable_gqa=False) -> Tensor"
)


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """`softmax(cap(scale * query @ key^T) + bias) @ value`, with `cap(x) = softcap * tanh(x / softcap)`.

    Args:
        query: [..., heads, queries, width].
        key: [..., heads, keys, width]; fewer heads with `enable_gqa`.
        value: [..., heads, keys, value width]; fewer heads with `enable_gqa`.
        bias: Broadcastable to [..., heads, queries, keys], added after capping; a boolean one keeps where true.
        scale: Factor of the scores.
        softcap: Bound of the scores, None for no bound.
        sinks: Broadcastable to [..., heads, queries, 1]: a further score per row that takes part in the softmax and
            has no value (attention sinks of gpt-oss).
        dropout_p: Probability of dropping an attention weight.
        is_causal: Keep only keys at or before the query's position, counted from the start of both.
        enable_gqa: Repeat key and value heads to as many as the query has.

    Returns:
        [..., heads, queries, value width].
    """
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    scores = torch.matmul(query, key.transpose(-2, -1)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if is_causal:
        keep = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~keep, float("-inf"))
    if bias is not None:
        scores = scores.masked_fill(~bias, float("-inf")) if bias.dtype == torch.bool else scores + bias
    if sinks is not None:
        column = sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)
        weights = torch.softmax(torch.cat([scores, column], dim=-1), dim=-1)[..., :-1]
    else:
        weights = torch.softmax(scores, dim=-1)
    if dropout_p > 0:
        weights = torch.dropout(weights, dropout_p, True)
    return torch.matmul(weights, value)


_LIBRARY.impl("attention", attention, "CompositeImplicitAutograd")


_LIBRARY.define("rotary_embedding(Tensor x, Tensor cos, Tensor sin, *, bool interleaved=False) -> Tensor")


def rotary_embedding(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, interleaved: bool = False
) -> torch.Tensor:
    """`x * cos + rotate(x) * sin`: rotate pairs of features by the angles whose cosine and sine are given.

    Args:
        x: [..., width].
        cos: [..., rotated], broadcastable to the first `rotated <= width` features of `x`; `rotated` is even. The
            features after those pass through.
        sin: As `cos`.
        interleaved: Pair feature `2 i` with `2 i + 1`; otherwise `i` with `i + rotated / 2`.

    Returns:
        [..., width], in the dtype that `x`, `cos` and `sin` promote to.
    """
    rotated = cos.size(-1)
    part, rest = x[..., :rotated], x[..., rotated:]
    if interleaved:
        turned = torch.stack([-part[..., 1::2], part[..., ::2]], dim=-1).flatten(-2)
    else:
        first, second = part[..., : rotated // 2], part[..., rotated // 2 :]
        turned = torch.cat([-second, first], dim=-1)
    result = part * cos + turned * sin
    return result if rotated == x.size(-1) else torch.cat([result, rest], dim=-1)


_LIBRARY.impl("rotary_embedding", rotary_embedding, "CompositeImplicitAutograd")


_LIBRARY.define("require(Tensor condition, str value, str source) -> ()")


def require(condition: torch.Tensor, value: str, source: str) -> None:
    """Refuse the inputs unless `condition` is true.

    Args:
        condition: [], boolean.
        value: What the model's source found at `source` when it was captured.
        source: `file:line` of the branch.

    Raises:
        InputError: The condition is false.
    """
    if not bool(condition):
        raise InputError(
            "the values of these inputs take another path through the model than the captured one",
            at=source,
            why=f"captured where this line finds {value}",
            remedies=["capture the model again with inputs like these", "run the model itself on such inputs"],
        )


def _require_nothing(condition: torch.Tensor, value: str, source: str) -> None:
    """What fake tensors require: they have no values."""


_LIBRARY.impl("require", require, "CompositeExplicitAutograd")
_LIBRARY.impl("require", _require_nothing, "Meta")
torch.fx.node.has_side_effect(torch.ops.graphwright.require.default)
