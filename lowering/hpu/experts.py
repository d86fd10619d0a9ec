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

_ANY = {"dtype": ..., "layout": ..., "device": ..., "pin_memory": ...}


@cache
def experts_rule(packet: Any) -> type[Rule]:
    """The rule for mixtures of experts whose products are calls of `packet`."""
    product, rest = OpProxy(packet), _rest(packet)

    class FusedExperts(Rule):
        """Rows sorted by expert, two grouped products, rows put back and added -> hpu.mixture_of_experts(x)."""

        requires = frozenset({"canonical"})

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
            """The operator's activations, and one type throughout."""
            m.require(m.x.dtype == m.weights.dtype == m.root.meta["val"].dtype, "all must be of one type")
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
            return hpu_call(rw, "mixture_of_experts.fused_weights", m.x, m.table, m.weights, *experts)

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


@dataclass(frozen=True)
class HpuExperts(Pass):
    """Mixtures of experts, as transformers computes them with grouped products, become `hpu::mixture_of_experts`.

    Agrees up to the order of sums.
    """

    name = "hpu-experts"
    requires = frozenset({"functional", "canonical"})

    def apply(self, program: Program, rewriter: Rewriter) -> Iterable[Any]:
        """Apply the rule for the products that the program has; returns the misses."""
        packets = {getattr(node.target, "overloadpacket", None) for node in program.graph.nodes}
        found = [packet for packet in packets if getattr(packet, "_qualified_op_name", "") in PRODUCTS]
        return apply_rules([experts_rule(packet) for packet in found], program, rewriter).misses
