"""GELU and SiLU in the spellings that models use."""

from __future__ import annotations

import math
from typing import Any

from graphwright.ir.edit import Edit
from graphwright.passes.patterns import Match, Rule, any_of, aten, number
from graphwright.passes.patterns.expressions import Expr
from graphwright.passes.patterns.idioms import square, times

_CLOSE = 1e-6


def _half_gated(x: Any, gate: Any) -> Expr:
    """`0.5 * x * gate`, however the three are grouped."""
    return any_of(
        aten.mul(times(x, 0.5), gate),
        aten.mul(x, times(gate, 0.5)),
        times(aten.mul(x, gate), 0.5),
    )


def _one_plus(x: Any) -> Expr:
    any_type = {"dtype": ..., "layout": ..., "device": ..., "pin_memory": ..., "memory_format": ...}
    ones = any_of(aten.ones_like(..., **any_type), aten.full_like(..., 1, **any_type), _full(1))
    return aten.add(x, any_of(1, ones))


def _full(value: Any) -> Expr:
    """A tensor of any shape filled with a number."""
    return aten.full.default(..., value, dtype=..., layout=..., device=..., pin_memory=...)


def _check_type(m: Match) -> None:
    m.require(m.x.dtype.is_floating_point, f"{m.x} must be of floating point", at=m.x)
    m.require(m.root.meta["val"].dtype == m.x.dtype, f"the result is of another dtype than {m.x}")


class ErfGelu(Rule):
    """0.5 * x * (1 + erf(x / sqrt(2))) -> gelu(x)."""

    requires = frozenset({"canonical"})

    def pattern(self, x: Any) -> Any:
        """The factors may be grouped in any way."""
        return _half_gated(x, _one_plus(aten.erf(times(x, math.sqrt(0.5), _CLOSE))))

    def check(self, m: Match) -> None:
        """One dtype."""
        _check_type(m)

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """`gelu(x)`."""
        return rw.aten.gelu(m.x)


class TanhGelu(Rule):
    """0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))) -> gelu(x, approximate="tanh")."""

    requires = frozenset({"canonical"})

    def pattern(self, x: Any) -> Any:
        """Also `sqrt(2 / pi) * x * (1 + 0.044715 * x * x)`."""
        root, small = number(math.sqrt(2 / math.pi), _CLOSE), number(0.044715, _CLOSE)
        cubic = any_of(aten.pow(x, 3), aten.mul(square(x), x))
        scaled = aten.mul(x, small)
        cubed = any_of(aten.mul(cubic, small), aten.mul(aten.mul(scaled, x), x))
        series = aten.mul(aten.add(x, cubed), root)
        squared = any_of(aten.mul(scaled, x), aten.mul(square(x), small))
        factored = any_of(
            aten.mul(aten.mul(x, root), _one_plus(squared)),
            aten.mul(aten.mul(x, _one_plus(squared)), root),
        )
        return _half_gated(x, _one_plus(aten.tanh(any_of(series, factored))))

    def check(self, m: Match) -> None:
        """One dtype."""
        _check_type(m)

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """`gelu(x, approximate="tanh")`."""
        return rw.aten.gelu(m.x, approximate="tanh")


class Silu(Rule):
    """x * sigmoid(x) -> silu(x)."""

    requires = frozenset({"canonical"})

    def pattern(self, x: Any) -> Any:
        """Also `x / (1 + exp(-x))`."""
        return any_of(aten.mul(x, aten.sigmoid(x)), aten.div(x, _one_plus(aten.exp(aten.neg(x)))))

    def check(self, m: Match) -> None:
        """One dtype."""
        _check_type(m)

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """`silu(x)`."""
        return rw.aten.silu(m.x)
