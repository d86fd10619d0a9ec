"""The `fuse-bias` pass: a bias that is added after a linear becomes part of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.node import bound, is_call, shape_of, value_of
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.passes.base import Pass
from graphwright.passes.patterns import Match, Rule, apply_rules, aten, tensor

aten_ = torch.ops.aten


class FuseBiasInLinear(Rule):
    """linear(x, w) + b -> linear(x, w, b)."""

    requires = frozenset({"functional"})

    def pattern(self, x: Any, w: Any, b: Any) -> Any:
        """The linear has no bias yet; b has one dimension."""
        return aten.add(aten.linear(x, tensor(w, rank=2), None).named("linear"), tensor(b, rank=1))

    def check(self, m: Match) -> None:
        """One bias per output feature, in the same dtype."""
        features = m.w.shape[0]
        m.require(m.b.shape[0] == features, f"{m.b} must have one element per output feature, {features}", at=m.b)
        m.require(m.b.dtype == m.linear.dtype, f"{m.b} is {m.b.dtype}, the linear is {m.linear.dtype}", at=m.b)

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """The bias as third argument."""
        return rw.aten.linear(m.x, m.w, m.b)


@dataclass(frozen=True)
class FuseBias(Pass):
    """Fuse the bias of a linear into it.

    Agrees to the last bits of the dtype: in half precision the fused op rounds once instead of twice.

    Args:
        into: `linear` makes `linear(x, w) + b` one linear with a bias; `weight` also moves every bias into the weight,
            `linear(cat([x, 1]), cat([w, b]))`, for targets whose linears have none. The larger weight is an expression
            in the graph: the state stays as it is.
    """

    name = "fuse-bias"
    requires = frozenset({"functional"})

    into: Literal["linear", "weight"] = "linear"

    def apply(self, program: Program, rewriter: Rewriter) -> list[Any]:
        """Apply the rule, then move biases into weights where asked; returns the misses."""
        misses = apply_rules((FuseBiasInLinear,), program, rewriter).misses
        if self.into == "weight":
            for node in [node for node in program.graph.nodes if is_call(node, aten_.linear) and bound(node)["bias"]]:
                with rewriter.site("BiasIntoWeight", (node,)) as edit:
                    edit.replace(node, _with_ones(node, edit))
                    edit.erase(node)
        return list(misses)


def _with_ones(node: Node, edit: Edit) -> Node:
    """`linear(cat([x, ones]), cat([w, b[:, None]]))`."""
    x, weight, bias = bound(node).values()
    first = edit.call(aten_.slice.Tensor, x, len(shape_of(x) or ()) - 1, 0, 1)
    ones = edit.call(aten_.ones_like.default, first)
    column = edit.call(aten_.unsqueeze.default, bias, 1)
    longer = edit.call(aten_.cat.default, [x, ones], len(shape_of(x) or ()) - 1)
    return edit.call(aten_.linear.default, longer, edit.call(aten_.cat.default, [weight, column], 1))


def is_weight(node: Any, limit: int = 50) -> bool:
    """Whether a value depends on the state only, not on the inputs of the program."""
    stack = [node] if isinstance(node, Node) and isinstance(value_of(node), torch.Tensor) else []
    found = bool(stack)
    while stack and limit:
        current, limit = stack.pop(), limit - 1
        if current.op == "placeholder" or (current.op != "get_attr" and not current.all_input_nodes):
            return False
        stack.extend(current.all_input_nodes)
    return found and not stack
