"""Comparisons, logic, and choices between values."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.lowering.neuron.builder import Builder, Number, Out, Value
from graphwright.lowering.neuron.table import register
from graphwright.lowering.neuron.xla import hlo

aten = torch.ops.aten


def _comparison(direction: str, *targets: Any) -> None:
    def emit(b: Builder, self: Value, other: Number) -> Any:
        return b.compare(direction, *b.promote(self, other))

    register(*targets)(emit)


_comparison("EQ", aten.eq.Tensor, aten.eq.Scalar)
_comparison("NE", aten.ne.Tensor, aten.ne.Scalar)
_comparison("LT", aten.lt.Tensor, aten.lt.Scalar)
_comparison("LE", aten.le.Tensor, aten.le.Scalar)
_comparison("GT", aten.gt.Tensor, aten.gt.Scalar)
_comparison("GE", aten.ge.Tensor, aten.ge.Scalar)


def _logical(function: Any, target: Any) -> None:
    def emit(b: Builder, self: Value, other: Value) -> Any:
        return function(*b.together(b.cast(self, torch.bool), b.cast(other, torch.bool)))

    register(target)(emit)


_logical(hlo.and_, aten.logical_and.default)
_logical(hlo.or_, aten.logical_or.default)
_logical(hlo.xor, aten.logical_xor.default)


def _bitwise(function: Any, *targets: Any) -> None:
    def emit(b: Builder, self: Value, other: Number) -> Any:
        return function(*b.promote(self, other))

    register(*targets)(emit)


_bitwise(hlo.and_, aten.bitwise_and.Tensor, aten.bitwise_and.Scalar, aten.__and__.Tensor, aten.__and__.Scalar)
_bitwise(hlo.or_, aten.bitwise_or.Tensor, aten.bitwise_or.Scalar, aten.__or__.Tensor, aten.__or__.Scalar)
_bitwise(hlo.xor, aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar, aten.__xor__.Tensor, aten.__xor__.Scalar)


def _shift(function: Any, *targets: Any) -> None:
    """Shifts are made in 32 bits, as the compiler takes no others."""

    def emit(b: Builder, self: Value, other: Number) -> Any:
        value, count = b.together(b.scalar(self, torch.int32), b.scalar(other, torch.int32))
        return b.cast(function(value, count), b.result.dtype)

    register(*targets)(emit)


_shift(
    hlo.shift_right_arithmetic, aten.bitwise_right_shift.Tensor, aten.bitwise_right_shift.Tensor_Scalar,
    aten.__rshift__.Tensor, aten.__rshift__.Scalar,
)  # fmt: skip
_shift(
    hlo.shift_left, aten.bitwise_left_shift.Tensor, aten.bitwise_left_shift.Tensor_Scalar, aten.__lshift__.Tensor,
    aten.__lshift__.Scalar,
)  # fmt: skip


@register(aten.logical_not.default)
def logical_not(b: Builder, self: Value) -> Any:
    """Whether a value is zero."""
    return hlo.not_(b.cast(self, torch.bool))


@register(aten.bitwise_not.default)
def bitwise_not(b: Builder, self: Value) -> Any:
    """All bits turned; of booleans, the negation."""
    return hlo.not_(self.out)


@register(aten.isnan.default)
def isnan(b: Builder, self: Value) -> Any:
    """Whether a value is not a number."""
    return b.compare("NE", self.out, self.out)


@register(aten.isinf.default)
def isinf(b: Builder, self: Value) -> Any:
    """Whether a value is infinite."""
    return b.compare("EQ", hlo.abs(self.out), b.like(float("inf"), self.out))


@register(aten.isfinite.default)
def isfinite(b: Builder, self: Value) -> Any:
    """Whether a value is a number."""
    return hlo.is_finite(self.out)


@register(aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar)
def where(b: Builder, condition: Value, self: Number, other: Number) -> Any:
    """One of two values each."""
    yes, no = b.scalar(self, b.result.dtype), b.scalar(other, b.result.dtype)
    return b.select(b.cast(condition, torch.bool), yes, no)


@register(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(b: Builder, self: Value, mask: Value, value: Number) -> Any:
    """A value where a mask is set."""
    return b.select(b.cast(mask, torch.bool), b.scalar(value, b.result.dtype), b.cast(self, b.result.dtype))


@register(aten.nan_to_num.default)
def nan_to_num(b: Builder, self: Value, nan: float | None, posinf: float | None, neginf: float | None) -> Any:
    """Finite numbers in the place of what is none."""
    limits = torch.finfo(self.dtype)
    number = b.select(b.compare("NE", self.out, self.out), b.const(nan or 0.0, self.dtype), self.out)
    number = _replaced(b, number, float("inf"), limits.max if posinf is None else posinf)
    return _replaced(b, number, float("-inf"), limits.min if neginf is None else neginf)


def _replaced(b: Builder, out: Out, old: float, new: float) -> Out:
    return b.select(b.compare("EQ", out, b.like(old, out)), b.like(new, out), out)
