"""Layer norms: `(x - mean(x)) / sqrt(var(x) + eps)`, with weight and bias or without."""

from __future__ import annotations

from typing import Any

from graphwright.ir.edit import Edit
from graphwright.passes.norm.spelling import (
    biased,
    check_narrowed,
    check_vectors,
    check_wide,
    mean_square,
    over_root,
    vector,
    weighted,
    width,
)
from graphwright.passes.patterns import Match, Rule, any_of, aten, number
from graphwright.passes.patterns.expressions import Expr
from graphwright.passes.patterns.idioms import cast


def _normed(x: Any, eps: Any, unbiased: Any, correction: Any) -> Expr:
    centred = aten.sub(x, aten.mean(x, [-1], True))
    variance = any_of(
        mean_square(centred),
        aten.var.dim(x, [-1], unbiased, True),
        aten.var.correction(x, [-1], correction=correction, keepdim=True),
    )
    return over_root(centred, aten.add(variance, number(eps)))


def _check_biased(m: Match) -> None:
    """The variance divides by n, not by n - 1 as `torch.var` does unless told otherwise."""
    m.require(not m.unbiased, "the variance is unbiased (divides by n - 1), layer_norm divides by n")
    captured = m.captures()
    divides_by_less = captured["correction"] is None and _uses(m, "var.correction")
    m.require(
        captured["correction"] in (None, 0) and not divides_by_less,
        "the variance has a correction (divides by n - correction), layer_norm divides by n",
    )


def _uses(m: Match, name: str) -> bool:
    return any(str(node.target).startswith(f"aten.{name}") for node in m.nodes)


def _fused(m: Match, rw: Edit, weight: Any, bias: Any) -> Any:
    return rw.aten.layer_norm(m.x, [width(m)], weight, bias, m.eps)


class LayerNormNarrowed(Rule):
    """A half-precision layer norm computed in float32 and cast back; exact up to the last bit of the half."""

    requires = frozenset({"canonical"})

    def pattern(self, x: Any, wide: Any, weight: Any, bias: Any, eps: Any, unbiased: Any, correction: Any) -> Any:
        """`to(weight * norm(to(x)) + bias)`."""
        return cast(biased(weighted(_normed(cast(x).named("wide"), eps, unbiased, correction), weight), bias))

    def check(self, m: Match) -> None:
        """The dtypes are those that the fused op uses."""
        _check_biased(m)
        check_narrowed(m)
        check_vectors(m, "weight", "bias")

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """`layer_norm(x, [n], weight, bias, eps)` in half precision."""
        return _fused(m, rw, m.weight, m.bias)


class LayerNormBiased(Rule):
    """weight * ((x - mean(x)) / sqrt(var(x) + eps)) + bias -> layer_norm(x, weight, bias)."""

    requires = frozenset({"canonical"})

    def pattern(self, x: Any, weight: Any, bias: Any, eps: Any, unbiased: Any, correction: Any) -> Any:
        """The weight may be missing."""
        return aten.add(weighted(_normed(x, eps, unbiased, correction), weight), vector(bias))

    def check(self, m: Match) -> None:
        """Everything is in one dtype."""
        _check_biased(m)
        check_wide(m)
        check_vectors(m, "weight", "bias")

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """`layer_norm(x, [n], weight, bias, eps)`."""
        return _fused(m, rw, m.weight, m.bias)


class LayerNormWeighted(Rule):
    """weight * ((x - mean(x)) / sqrt(var(x) + eps)) -> layer_norm(x, weight)."""

    requires = frozenset({"canonical"})

    def pattern(self, x: Any, weight: Any, eps: Any, unbiased: Any, correction: Any) -> Any:
        """No bias."""
        return aten.mul(vector(weight), _normed(x, eps, unbiased, correction))

    def check(self, m: Match) -> None:
        """Everything is in one dtype."""
        _check_biased(m)
        check_wide(m)
        check_vectors(m, "weight")

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """`layer_norm(x, [n], weight, None, eps)`."""
        return _fused(m, rw, m.weight, None)


class LayerNorm(Rule):
    """(x - mean(x)) / sqrt(var(x) + eps) -> layer_norm(x)."""

    requires = frozenset({"canonical"})

    def pattern(self, x: Any, eps: Any, unbiased: Any, correction: Any) -> Any:
        """Neither weight nor bias."""
        return _normed(x, eps, unbiased, correction)

    def check(self, m: Match) -> None:
        """Everything is in one dtype."""
        _check_biased(m)
        check_wide(m)
        width(m)

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """`layer_norm(x, [n], None, None, eps)`."""
        return _fused(m, rw, None, None)
