"""Comparisons, logic, and choices between values."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.lowering.openvino.builder import Builder, Number, Value, op
from graphwright.lowering.openvino.table import register

aten = torch.ops.aten


def _comparison(function: Any, *targets: Any) -> None:
    def emit(b: Builder, self: Value, other: Number) -> Any:
        return function(*b.promote(self, other))

    register(*targets)(emit)


_comparison(op.equal, aten.eq.Tensor, aten.eq.Scalar)
_comparison(op.not_equal, aten.ne.Tensor, aten.ne.Scalar)
_comparison(op.less, aten.lt.Tensor, aten.lt.Scalar)
_comparison(op.less_equal, aten.le.Tensor, aten.le.Scalar)
_comparison(op.greater, aten.gt.Tensor, aten.gt.Scalar)
_comparison(op.greater_equal, aten.ge.Tensor, aten.ge.Scalar)


def _logical(function: Any, target: Any) -> None:
    def emit(b: Builder, self: Value, other: Value) -> Any:
        return function(b.cast(self, torch.bool), b.cast(other, torch.bool))

    register(target)(emit)


_logical(op.logical_and, aten.logical_and.default)
_logical(op.logical_or, aten.logical_or.default)
_logical(op.logical_xor, aten.logical_xor.default)


def _bitwise(of_bools: Any, of_integers: Any, *targets: Any) -> None:
    def emit(b: Builder, self: Value, other: Number) -> Any:
        return (of_bools if b.result.dtype is torch.bool else of_integers)(*b.promote(self, other))

    register(*targets)(emit)


_bitwise(op.logical_and, op.bitwise_and, aten.bitwise_and.Tensor, aten.bitwise_and.Scalar, aten.__and__.Tensor)
_bitwise(op.logical_or, op.bitwise_or, aten.bitwise_or.Tensor, aten.bitwise_or.Scalar, aten.__or__.Tensor)
_bitwise(op.logical_xor, op.bitwise_xor, aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar, aten.__xor__.Tensor)


@register(aten.logical_not.default)
def logical_not(b: Builder, self: Value) -> Any:
    """Whether a value is zero."""
    return op.logical_not(b.cast(self, torch.bool))


@register(aten.bitwise_not.default)
def bitwise_not(b: Builder, self: Value) -> Any:
    """All bits turned; of booleans, the negation."""
    return op.logical_not(self.out) if self.dtype is torch.bool else op.bitwise_not(self.out)


@register(aten.isnan.default)
def isnan(b: Builder, self: Value) -> Any:
    """Whether a value is not a number."""
    return op.not_equal(self.out, self.out)


@register(aten.isinf.default)
def isinf(b: Builder, self: Value) -> Any:
    """Whether a value is infinite."""
    return op.equal(op.abs(self.out), b.const(float("inf"), self.dtype))


@register(aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar)
def where(b: Builder, condition: Value, self: Number, other: Number) -> Any:
    """One of two values each."""
    return op.select(b.cast(condition, torch.bool), b.scalar(self, b.result.dtype), b.scalar(other, b.result.dtype))


@register(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(b: Builder, self: Value, mask: Value, value: Number) -> Any:
    """A value where a mask is set."""
    return op.select(b.cast(mask, torch.bool), b.scalar(value, b.result.dtype), b.cast(self, b.result.dtype))


@register(aten.nan_to_num.default)
def nan_to_num(b: Builder, self: Value, nan: float | None, posinf: float | None, neginf: float | None) -> Any:
    """Finite numbers in the place of what is none."""
    limits = torch.finfo(self.dtype)
    high = limits.max if posinf is None else posinf
    low = limits.min if neginf is None else neginf
    number = op.select(op.not_equal(self.out, self.out), b.const(nan or 0.0, self.dtype), self.out)
    number = op.select(op.equal(number, b.const(float("inf"), self.dtype)), b.const(high, self.dtype), number)
    return op.select(op.equal(number, b.const(float("-inf"), self.dtype)), b.const(low, self.dtype), number)
