"""Attention as the vendor's fused operator."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import torch

from graphwright.ir.edit import Edit
from graphwright.ir.infer import same_size
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.lowering.hpu.calls import first_result, hpu_call
from graphwright.passes.attention.heads import unrepeated
from graphwright.passes.base import Pass
from graphwright.passes.patterns import Match, Rule, apply_rules, aten


class FusedAttention(Rule):
    """scaled_dot_product_attention(q, k, v) -> hpu.sdpa_recomp_fwd(q, k, v)[0].

    A boolean mask becomes numbers that are added; a query that it leaves without any key gives zeros as before.
    Grouped heads get an axis of their own, [batch, groups, heads of a group, length, width], as the vendor's own
    wrapper has it.
    """

    requires = frozenset({"canonical"})
    softmax: ClassVar[str] = "None"
    zeros: ClassVar[bool] = True

    def pattern(self, q: Any, k: Any, v: Any, mask: Any, p: Any, causal: Any, scale: Any) -> Any:
        """Any form of the op."""
        return aten.scaled_dot_product_attention(q, k, v, mask, p, causal, scale=scale, enable_gqa=...)

    def check(self, m: Match) -> None:
        """What the vendor's operator can express."""
        m.require(not m.p, "the operator is emitted without dropout")
        m.require(m.q.rank == m.k.rank == m.v.rank == 4, "query, key and value must have rank 4")
        m.require(not (m.causal and m.mask is not None), "the operator takes a mask or is_causal, not both")
        equal = same_size(m.q.shape[2], m.k.shape[2])
        m.require(not m.causal or equal, "is_causal needs as many queries as keys", at=m.k)
        fixed = all(isinstance(part.shape[1], int) for part in (m.q, m.k, m.v))
        alike = same_size(m.q.shape[1], m.k.shape[1]) and same_size(m.q.shape[1], m.v.shape[1])
        m.require(fixed or alike, "grouped heads must be of a fixed number")

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """The operator on rank 4 or, with grouped heads, on rank 5."""
        (key, times), (value, again) = unrepeated(m.k.node), unrepeated(m.v.node)
        if times != again:
            key, value = m.k.node, m.v.node
        heads, groups = m.q.shape[1], key.meta["val"].shape[1]
        grouped = not same_size(groups, heads)
        query, mask = m.q, None if m.mask is None else _added(m, rw)
        if grouped:
            query = rw.aten.unflatten.int(query, 1, [groups, heads // groups])
            key, value = (rw.aten.unsqueeze(part, 2) for part in (key, value))
            mask = mask if mask is None else _grouped_mask(mask, groups, heads, rw)
        scale = 1 / math.sqrt(int(m.q.shape[-1])) if m.scale is None else float(m.scale)
        call = hpu_call(
            rw,
            "sdpa_recomp_fwd",
            query,
            key,
            value,
            mask,
            0.0,
            scale,
            bool(m.causal),
            False,
            self.softmax,
            None,
            "left",
        )
        result = first_result(rw, call)
        result = rw.aten.flatten.using_ints(result, 1, 2) if grouped else result
        return _without_empty_rows(m, result, rw) if self.zeros else result


@cache
def attention_rule(softmax: str, zeros: bool) -> type[FusedAttention]:
    """The rule with these options."""
    return type(
        "FusedAttention", (FusedAttention,), {"softmax": softmax, "zeros": zeros, "__doc__": FusedAttention.__doc__}
    )


def _added(m: Match, rw: Edit) -> Any:
    """The mask as numbers of the query's type."""
    if m.mask.dtype != torch.bool:
        return m.mask.node
    options = {"dtype": m.q.dtype, "device": m.q.type.device}
    zero, low = (rw.aten.full([], number, **options) for number in (0.0, torch.finfo(m.q.dtype).min))
    return rw.aten.where.self(m.mask, zero, low)


def _without_empty_rows(m: Match, result: Any, rw: Edit) -> Any:
    """Zeros for queries that a boolean mask leaves without any key; the operator gives the mean of the values."""
    if m.mask is None or m.mask.dtype != torch.bool:
        return result
    return rw.aten.mul(result, rw.aten.to.dtype(rw.aten.any.dim(m.mask, -1, True), m.q.dtype))


def _grouped_mask(mask: Any, groups: int, heads: int, rw: Edit) -> Any:
    """A mask [..., heads or 1, queries, keys] with the axis of the groups."""
    shape = mask.meta["val"].shape
    if len(shape) < 3:
        return mask
    axis = len(shape) - 3
    if shape[axis] == heads and heads > 1:
        return rw.aten.unflatten.int(mask, axis, [groups, heads // groups])
    return rw.aten.unsqueeze(mask, axis)


@dataclass(frozen=True)
class HpuAttention(Pass):
    """Attention becomes `hpu::sdpa_recomp_fwd`.

    Args:
        softmax: The vendor's `softmax_mode`: `None`, or `fast`, which is less exact.
        empty_rows: What a query gives that a boolean mask leaves without any key: `zero` as in ATen, at the cost of a
            product, or `mean`, the mean of the values, where nobody reads such rows.
    """

    name = "hpu-attention"
    requires = frozenset({"functional", "canonical"})

    softmax: Literal["None", "fast"] = "None"
    empty_rows: Literal["zero", "mean"] = "zero"

    def apply(self, program: Program, rewriter: Rewriter) -> Iterable[Any]:
        """Apply the rule; returns the misses."""
        rule = attention_rule(self.softmax, self.empty_rows == "zero")
        return apply_rules((rule,), program, rewriter).misses
