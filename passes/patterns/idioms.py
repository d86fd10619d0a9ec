"""Small computations that models spell in several ways, as expressions to build patterns from."""

from __future__ import annotations

from typing import Any

from graphwright.passes.patterns.combinators import any_of, maybe, number
from graphwright.passes.patterns.expressions import Expr, as_expr
from graphwright.passes.patterns.proxy import aten


def cast(x: Any, dtype: Any = ...) -> Expr:
    """`x.to(dtype)`, whichever op it became; any dtype if left out."""
    return any_of(aten.to.dtype(x, dtype), aten._to_copy(x, dtype=dtype, layout=..., device=...))


def maybe_cast(x: Any, tag: str | None = None) -> Expr:
    """`x`, or `x` cast to some dtype; `m.tag(tag)` says which."""
    return maybe(cast, x, tag)


def square(x: Any) -> Expr:
    """`x ** 2` or `x * x`."""
    x = as_expr(x)
    return any_of(aten.pow(x, 2), aten.mul(x, x))


def times(x: Any, factor: float, tolerance: float = 1e-6) -> Expr:
    """`x * factor` or `x / (1 / factor)`, `factor` not 0."""
    return any_of(aten.mul(x, number(factor, tolerance)), aten.div(x, number(1 / factor, tolerance)))


def minus(value: Any, x: Any) -> Expr:
    """`value - x`, as `sub` or as `rsub`."""
    return any_of(aten.rsub(x, value), aten.sub(value, x))


def dropout_off(x: Any) -> Expr:
    """`x`, or `x` behind a dropout that is switched off."""
    return maybe(lambda inner: aten.dropout(inner, ..., False), x)
