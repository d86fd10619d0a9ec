"""Parts that hand-written norms share, as expressions, and the checks on what they matched."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.passes.patterns import Match, any_of, aten, maybe, tensor
from graphwright.passes.patterns.expressions import Expr
from graphwright.passes.patterns.idioms import maybe_cast, square

HALF = (torch.float16, torch.bfloat16)


def mean_square(x: Any) -> Expr:
    """`mean(x ** 2)` over the last axis, which is kept."""
    return aten.mean(any_of(square(x), aten.square(x)), [-1], True)


def over_root(x: Any, variance: Any) -> Expr:
    """`x / sqrt(variance)` in its spellings."""
    root = any_of(aten.sqrt(variance), aten.pow(variance, 0.5))
    inverse = any_of(aten.rsqrt(variance), aten.pow(variance, -0.5), aten.reciprocal(root), aten.div(1, root))
    return any_of(aten.mul(x, inverse), aten.div(x, root))


def vector(x: Any) -> Expr:
    """A weight or bias of one dimension, cast or not."""
    return maybe_cast(tensor(x, rank=1))


def weighted(x: Any, weight: Any) -> Expr:
    """`x`, or `weight * x`."""
    return maybe(lambda inner: aten.mul(vector(weight), inner), x)


def biased(x: Any, bias: Any) -> Expr:
    """`x`, or `x + bias`."""
    return maybe(lambda inner: aten.add(inner, vector(bias)), x)


def width(m: Match) -> int:
    """Size of the last axis of `m.x`, which must be the same for every input."""
    size = m.x.shape[-1] if m.x.rank else None
    m.require(isinstance(size, int), "the normalised axis must have one size for every input", at=m.x)
    assert isinstance(size, int)
    return size


def check_wide(m: Match) -> None:
    """All of it is computed in the dtype of `m.x`, and that is wide enough to be the same as the fused op."""
    m.require(m.x.dtype.is_floating_point, f"{m.x} must be of floating point", at=m.x)
    m.require(m.x.dtype not in HALF, f"the mean is taken in {m.x.dtype}, the fused op takes it in float32", at=m.x)
    m.require(m.root.meta["val"].dtype == m.x.dtype, f"the result is not {m.x.dtype} as {m.x} is")


def check_narrowed(m: Match) -> None:
    """A half-precision `m.x` is widened to float32, normalised, and the result cast back."""
    m.require(m.x.dtype in HALF, f"only half precision is widened by the fused op itself, {m.x} is {m.x.dtype}", at=m.x)
    m.require(
        m.wide.dtype == torch.float32, f"{m.x} is widened to {m.wide.dtype}, the fused op uses float32", at=m.wide
    )
    m.require(m.root.meta["val"].dtype == m.x.dtype, f"the result is cast to another dtype than {m.x.dtype}")


def check_vectors(m: Match, *names: str) -> None:
    """Weight and bias have one element per feature, in the dtype of `m.x`."""
    size = width(m)
    for value in [getattr(m, name) for name in names]:
        if value is not None:
            m.require(value.shape[0] == size, f"{value} must have the size of the last axis, {size}", at=value)
            m.require(value.dtype == m.x.dtype, f"{value} is {value.dtype}, {m.x} is {m.x.dtype}", at=value)
