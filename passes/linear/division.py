"""The `div-to-mul` pass: division by a constant becomes multiplication by its inverse."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from graphwright.ir.edit import Edit
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.passes.base import Pass
from graphwright.passes.patterns import Match, Rule, apply_rules, aten, number, tensor


class ChangeTrueDivToMulByInverse(Rule):
    """x / c -> x * (1 / c), where c is a power of two."""

    requires = frozenset({"functional"})
    exact = True

    def pattern(self, x: Any, c: Any) -> Any:
        """True division, by a number or a constant tensor without dimensions."""
        return aten.div(tensor(x), number(c))

    def check(self, m: Match) -> None:
        """The inverse exists, and is exact unless the pass was told otherwise."""
        m.require(m.c != 0 and math.isfinite(m.c), f"{m.c} has no inverse")
        result = m.root.meta["val"].dtype
        m.require(result.is_floating_point, f"the result is {result}, not of floating point")
        m.require(self.exact is False or math.frexp(m.c)[0] in (0.5, -0.5), f"1 / {m.c} is not exact in binary")
        limits = torch.finfo(result)
        m.require(limits.tiny <= abs(1 / m.c) <= limits.max, f"1 / {m.c} is out of the range of {result}")

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """The inverse is computed in double precision."""
        return rw.aten.mul(m.x, 1 / m.c)


class _AnyDivisor(ChangeTrueDivToMulByInverse):
    """x / c -> x * (1 / c), up to a rounding."""

    exact = False


@dataclass(frozen=True)
class DivToMul(Pass):
    """Multiply by the inverse of a constant instead of dividing by it.

    Args:
        exact: Only where the result is the same to the last bit, which is where the constant is a power of two. Without
            it, any constant; results then differ by one rounding.
    """

    name = "div-to-mul"
    requires = frozenset({"functional"})

    exact: bool = True

    def apply(self, program: Program, rewriter: Rewriter) -> Iterable[Any]:
        """Apply the rule; returns the misses."""
        rule = ChangeTrueDivToMulByInverse if self.exact else _AnyDivisor
        return apply_rules((rule,), program, rewriter).misses
