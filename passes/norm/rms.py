"""RMS norms: `x * rsqrt(mean(x ** 2) + eps)`, weighted before or after the cast back, or not at all."""

from __future__ import annotations

from typing import Any

from graphwright.ir.edit import Edit
from graphwright.passes.norm.spelling import (
    check_narrowed,
    check_vectors,
    check_wide,
    mean_square,
    over_root,
    weighted,
    width,
)
from graphwright.passes.patterns import Match, Rule, any_of, aten, number, tensor
from graphwright.passes.patterns.expressions import Expr
from graphwright.passes.patterns.idioms import cast


def _normed(x: Any, wide: Any, eps: Any) -> Expr:
    return over_root(x, aten.add(mean_square(wide), number(eps)))


class RmsNormNarrowed(Rule):
    """A half-precision RMS norm computed in float32 and cast back, weighted before the cast or not at all.

    `aten.rms_norm` does the same roundings: it widens to float32, multiplies by the weight there, and casts once.
    """

    requires = frozenset({"canonical"})

    def pattern(self, x: Any, wide: Any, weight: Any, eps: Any) -> Any:
        """`to(weight * (to(x) * rsqrt(mean(to(x) ** 2) + eps)))`."""
        widened = cast(x).named("wide")
        return cast(weighted(_normed(any_of(widened, x), widened, eps), weight))

    def check(self, m: Match) -> None:
        """The dtypes are those that the fused op uses."""
        check_narrowed(m)
        check_vectors(m, "weight")

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """`rms_norm(x, [n], weight, eps)` in half precision."""
        return rw.aten.rms_norm(m.x, [width(m)], m.weight, m.eps)


class RmsNormWeighted(Rule):
    """weight * (x * rsqrt(mean(x ** 2) + eps)) -> rms_norm(x, weight)."""

    requires = frozenset({"canonical"})

    def pattern(self, x: Any, weight: Any, eps: Any) -> Any:
        """The weight has one dimension; it may be an expression such as `1 + w`."""
        return aten.mul(tensor(weight, rank=1), _normed(x, x, eps))

    def check(self, m: Match) -> None:
        """Everything is in one dtype."""
        check_wide(m)
        check_vectors(m, "weight")

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """`rms_norm(x, [n], weight, eps)`."""
        return rw.aten.rms_norm(m.x, [width(m)], m.weight, m.eps)


class RmsNorm(Rule):
    """x * rsqrt(mean(x ** 2) + eps) -> rms_norm(x)."""

    requires = frozenset({"canonical"})

    def pattern(self, x: Any, eps: Any) -> Any:
        """No weight."""
        return _normed(x, x, eps)

    def check(self, m: Match) -> None:
        """Everything is in one dtype."""
        check_wide(m)
        width(m)

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """`rms_norm(x, [n], None, eps)`."""
        return rw.aten.rms_norm(m.x, [width(m)], None, m.eps)
