"""The `conv1d-to-linear` pass: products with a transposed weight, and GPT-2's Conv1D, become linears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphwright.ir.edit import Edit
from graphwright.ir.infer import same_shape
from graphwright.ir.node import shape_of, value_of
from graphwright.passes.base import Pass
from graphwright.passes.linear.bias import is_weight
from graphwright.passes.patterns import Match, Rule, any_of, aten, tensor
from graphwright.passes.patterns.expressions import Expr


def _product(x: Any, w: Any, b: Any) -> Expr:
    """`x @ w + b` or `x @ w` on matrices."""
    return any_of(aten.addmm(b, x, w), aten.mm(x, w))


def _check(m: Match) -> None:
    m.require(m.w.rank == 2, f"{m.w} has rank {m.w.rank}, the weight of a linear has rank 2", at=m.w)
    m.require(is_weight(m.w.node), f"{m.w} depends on an input of the program, it is no weight", at=m.w)
    if m.b is not None:
        features = m.w.shape[1]
        fits = m.b.rank == 1 and m.b.shape[0] == features
        m.require(fits, f"{m.b} must be a vector with one element per output feature, {features}", at=m.b)


def _linear(x: Any, m: Match, rw: Edit) -> Any:
    bias = [] if m.b is None else [m.b]
    return rw.aten.linear(x, rw.aten.transpose.int(m.w, 0, 1), *bias)


class Conv1dToLinear(Rule):
    """reshape(addmm(b, reshape(x, [-1, n]), w), [..., k]) -> linear(x, transpose(w), b)."""

    requires = frozenset({"canonical"})

    def pattern(self, x: Any, w: Any, b: Any) -> Any:
        """All leading axes are flattened and restored around the product."""
        return aten.reshape(_product(aten.reshape(x, ...), w, b), ...)

    def check(self, m: Match) -> None:
        """The reshapes keep the last axis and undo each other."""
        _check(m)
        result = shape_of(m.root) or ()
        kept = m.x.shape[-1] == m.w.shape[0] and same_shape(result[:-1], m.x.shape[:-1])
        m.require(kept, f"the reshapes around the product do not keep the leading axes of {m.x}", at=m.x)

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """One linear on all leading axes."""
        return _linear(m.x, m, rw)


class AddmmToLinear(Rule):
    """addmm(b, x, w) -> linear(x, transpose(w), b); mm(x, w) -> linear(x, transpose(w))."""

    requires = frozenset({"functional"})

    def pattern(self, x: Any, w: Any, b: Any) -> Any:
        """On matrices, without factors."""
        return _product(x, w, b)

    def check(self, m: Match) -> None:
        """W is a weight."""
        _check(m)

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """The weight transposed, which costs nothing where the target folds weights."""
        return _linear(m.x, m, rw)


class MatmulToLinear(Rule):
    """matmul(x, w) -> linear(x, transpose(w))."""

    requires = frozenset({"functional"})

    def pattern(self, x: Any, w: Any) -> Any:
        """X has any number of leading axes."""
        return aten.matmul(tensor(x), tensor(w, rank=2))

    def check(self, m: Match) -> None:
        """W is a weight and x no vector."""
        m.require(m.x.rank > 1, f"{m.x} is a vector", at=m.x)
        m.require(is_weight(m.w.node), f"{m.w} depends on an input of the program, it is no weight", at=m.w)
        m.require(value_of(m.root).dtype == m.x.dtype, f"{m.x} and {m.w} differ in dtype", at=m.x)

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """The weight transposed."""
        return rw.aten.linear(m.x, rw.aten.transpose.int(m.w, 0, 1))


@dataclass(frozen=True)
class Conv1dToLinearPass(Pass):
    """Turn products with a weight (Conv1D of GPT-2, addmm, mm, matmul) into linears.

    The transposed weight is an expression in the graph, so that state, training and undo are exact. Results agree to
    the last bits of the dtype: the product may add in another order.
    """

    name = "conv1d-to-linear"
    requires = frozenset({"functional", "canonical"})
    rules: ClassVar[tuple[type[Rule], ...]] = (Conv1dToLinear, AddmmToLinear, MatmulToLinear)
