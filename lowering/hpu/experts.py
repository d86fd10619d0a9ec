"""Mixtures of experts as the vendor's fused operator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.node import is_call
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.lowering.hpu.calls import hpu_call
from graphwright.passes.base import Pass
from graphwright.passes.patterns import Match, Rule, any_of, apply_rules, aten
from graphwright.passes.patterns.expressions import Expr
from graphwright.passes.patterns.idioms import maybe_cast
from graphwright.passes.patterns.proxy import OpProxy

PRODUCTS = ("transformers::grouped_mm_fallback", "aten::_grouped_mm")
"""Ops that multiply sorted rows with the matrix of their expert."""

HALF = (torch.bfloat16, torch.float16)

_ANY = {"dtype": ..., "layout": ..., "device": ..., "pin_memory": ...}


@cache
def experts_rule(packet: Any) -> type[Rule]:
    """The rule for mixtures of experts whose products are calls of `packet`."""
    product, rest = OpProxy(packet), _rest(packet)

    class FusedExperts(Rule):
        """Rows sorted by expert, two grouped products, rows put back and added -> hpu.mixture_of_experts(x)."""

        requires = frozenset({"canonical"})
        allow_shared = True

        def pattern(
            self, x: Any, table: Any, weights: Any, gate_up: Any, down: Any, chosen: Any, bins: Any, top: Any
        ) -> Any:
            """Rows go to the experts in sorted order, `chosen` per token, and are put back."""
            sorted_ = aten.sort(aten.reshape(table, [-1]), -1, False)
            experts, order = sorted_[0], sorted_[1]
            ends = aten.cumsum(aten.histc(maybe_cast(experts), bins, 0, top), 0, dtype=...)
            rows = aten.index(x, [aten.floor_divide(order, chosen)])
            inner = aten.chunk(product(rows, gate_up, ends, *rest), 2, -1)
            gated = aten.mul(_activated(inner[0]), inner[1])
            share = aten.unsqueeze(aten.index(aten.reshape(weights, [-1]), [order]), 1)
            weighted = aten.mul(maybe_cast(product(gated, down, ends, *rest)), share)
            blank = aten.empty_like(order, memory_format=..., **_ANY)
            places = aten.arange.default(..., **_ANY)
            back = aten.index(weighted, [aten.index_put(blank, [order], places)])
            return aten.sum(aten.reshape(back, ...), [1])

        def check(self, m: Match) -> None:
            """One type throughout, or one that the router's weights are rounded to."""
            narrow = m.x.dtype in HALF
            m.require(
                narrow or m.x.dtype == m.weights.dtype, f"{m.weights} is not {m.x.dtype} as {m.x} is", at=m.weights
            )
            m.require(m.x.rank == m.table.rank == m.weights.rank == 2, "tokens must be rows")
            m.require(m.chosen == m.table.shape[1], "each token must have its experts in one row", at=m.table)
            count = m.gate_up.shape[0]
            m.require(m.bins == count and m.top == count - 1, f"rows are not counted for each of {count} experts")

        def rewrite(self, m: Match, rw: Edit) -> Any:
            """Each expert's matrices, as a list."""
            count = int(m.gate_up.shape[0])
            w12, permuted = _matrices(m.gate_up.node, count, rw)
            w3, also = _matrices(m.down.node, count, rw)
            if permuted != also:
                w3 = [rw.aten.transpose.int(part, 0, 1) for part in w3]
            experts = (w12, w3, permuted, m.tag("activation"), 0, count - 1)
            shares = m.weights.node if m.weights.dtype == m.x.dtype else rw.aten.to.dtype(m.weights, m.x.dtype)
            result = hpu_call(rw, "mixture_of_experts.fused_weights", m.x, m.table, shares, *experts)
            dtype = m.root.meta["val"].dtype
            return result if dtype == m.x.dtype else rw.aten.to.dtype(result, dtype)

    return FusedExperts


def _rest(packet: Any) -> tuple[Any, ...]:
    """Further arguments of the product: bias and type of the result."""
    count = len(getattr(packet, packet.overloads()[0])._schema.arguments)
    return (None, ...)[: count - 3]


def _activated(gate: Any) -> Expr:
    return any_of(tag="activation", silu=aten.silu(gate), relu=aten.relu(gate), gelu=aten.gelu(gate))


def _matrices(stacked: Node, count: int, rw: Edit) -> tuple[list[Any], bool]:
    """The matrix of each expert, and whether they are as in `torch.nn.Linear`."""
    axes: Any = stacked.args[1:]
    permuted = is_call(stacked, torch.ops.aten.transpose.int) and {axis % 3 for axis in axes} == {1, 2}
    source = stacked.args[0] if permuted else stacked
    return [rw.aten.select.int(source, 0, i) for i in range(count)], permuted


@cache
def dense_rule(packet: Any) -> type[Rule]:
    """The rule for calls of `packet` that are part of no mixture the vendor's operator can express."""
    product, rest = OpProxy(packet), _rest(packet)

    class DenseProduct(Rule):
        """grouped_mm(rows, matrices, ends) -> every row times every matrix, and the right ones added: fixed sizes."""

        requires = frozenset({"canonical"})

        def pattern(self, rows: Any, matrices: Any, ends: Any) -> Any:
            """Any grouped product."""
            return product(rows, matrices, ends, *rest)

        def check(self, m: Match) -> None:
            """Rows in groups, one matrix each."""
            m.require(m.rows.rank == 2 and m.matrices.rank == 3, "rows must have rank 2, matrices rank 3")
            m.require(isinstance(m.matrices.shape[0], int), "the number of experts must be fixed", at=m.matrices)

        def rewrite(self, m: Match, rw: Edit) -> Any:
            """Rows that belong to another matrix count as zero."""
            options = {"dtype": torch.int32, "device": m.rows.type.device}
            first = rw.aten.select.int(m.rows, 1, 0)
            place = rw.aten.sub(rw.aten.cumsum(rw.aten.ones_like(first, **options), 0, dtype=torch.int32), 1)
            passed = rw.aten.ge(rw.aten.unsqueeze(place, 1), m.ends)
            expert = rw.aten.sum.dim_IntList(passed, [1])
            numbers = rw.aten.arange.default(int(m.matrices.shape[0]), device=m.rows.type.device)
            mine = rw.aten.eq(expert, rw.aten.unsqueeze(numbers, 1))
            kept = rw.aten.mul(m.rows, rw.aten.to.dtype(rw.aten.unsqueeze(mine, 2), m.rows.dtype))
            return rw.aten.sum.dim_IntList(rw.aten.matmul(kept, m.matrices), [0])

    return DenseProduct


@dataclass(frozen=True)
class HpuExperts(Pass):
    """Mixtures of experts, as transformers computes them with grouped products, become `hpu::mixture_of_experts`.

    Agrees up to the order of sums; in half precision the router's weights are rounded to it too, as the operator takes
    one type. Grouped products of other mixtures (with biases, or a clamped gate) become products
    of all rows with all experts' matrices, which take as many times as long as there are experts.
    """

    name = "hpu-experts"
    requires = frozenset({"functional", "canonical"})

    def apply(self, program: Program, rewriter: Rewriter) -> Iterable[Any]:
        """Apply the rules for the products that the program has; returns the misses."""
        packets = {getattr(node.target, "overloadpacket", None) for node in program.graph.nodes}
        found = [packet for packet in packets if getattr(packet, "_qualified_op_name", "") in PRODUCTS]
        misses = apply_rules([experts_rule(packet) for packet in found], program, rewriter).misses
        apply_rules([dense_rule(packet) for packet in found], program, rewriter)
        return misses
