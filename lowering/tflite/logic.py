"""Comparisons, logic, and choices between values."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.node import value_of
from graphwright.lowering.support import Support
from graphwright.lowering.tflite.builder import Builder, Number
from graphwright.lowering.tflite.graph import Value
from graphwright.lowering.tflite.table import register

aten = torch.ops.aten


def _comparison(code: str, *targets: Any) -> None:
    def emit(b: Builder, self: Value, other: Number) -> Value:
        left, right = b.promote(self, other)
        if left.dtype == "bool" and code not in ("EQUAL", "NOT_EQUAL"):
            left, right = b.cast(left, "int32"), b.cast(right, "int32")
        return b.binary(code, left, right, "bool")

    register(*targets)(emit)


_comparison("EQUAL", aten.eq.Tensor, aten.eq.Scalar)
_comparison("NOT_EQUAL", aten.ne.Tensor, aten.ne.Scalar)
_comparison("LESS", aten.lt.Tensor, aten.lt.Scalar)
_comparison("LESS_EQUAL", aten.le.Tensor, aten.le.Scalar)
_comparison("GREATER", aten.gt.Tensor, aten.gt.Scalar)
_comparison("GREATER_EQUAL", aten.ge.Tensor, aten.ge.Scalar)


def _booleans(node: Node) -> Support:
    if value_of(node).dtype is torch.bool:
        return Support.yes()
    return Support.no("LiteRT has LOGICAL_AND and LOGICAL_OR for booleans only", remedy="compare with zero first")


def _logical(code: str, *targets: Any, validate: Any = None) -> None:
    def emit(b: Builder, self: Value, other: Number) -> Value:
        return b.binary(code, b.scalar(self, "bool"), b.scalar(other, "bool"), "bool")

    register(*targets, validate=validate)(emit)


_logical("LOGICAL_AND", aten.logical_and.default)
_logical("LOGICAL_OR", aten.logical_or.default)
_logical("NOT_EQUAL", aten.logical_xor.default)
_AND = (aten.bitwise_and.Tensor, aten.bitwise_and.Scalar, aten.__and__.Tensor, aten.__and__.Scalar)
_OR = (aten.bitwise_or.Tensor, aten.bitwise_or.Scalar, aten.__or__.Tensor, aten.__or__.Scalar)
_logical("LOGICAL_AND", *_AND, validate=_booleans)
_logical("LOGICAL_OR", *_OR, validate=_booleans)


@register(aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar, aten.__xor__.Tensor, aten.__xor__.Scalar)
def bitwise_xor(b: Builder, self: Value, other: Number) -> Value:
    """Exclusive or of the bits."""
    left, right = b.promote(self, other)
    return b.binary("NOT_EQUAL" if left.dtype == "bool" else "BITWISE_XOR", left, right, b.dtype)


@register(aten.logical_not.default)
def logical_not(b: Builder, self: Value) -> Value:
    """Whether a value is zero."""
    if self.dtype != "bool":
        return b.binary("EQUAL", self, b.const(0, self.dtype), "bool")
    return b.unary("LOGICAL_NOT", self)


@register(aten.bitwise_not.default)
def bitwise_not(b: Builder, self: Value) -> Value:
    """All bits turned; of booleans, the negation."""
    if self.dtype == "bool":
        return b.unary("LOGICAL_NOT", self)
    return b.binary("SUB", b.const(-1, self.dtype), self)


@register(aten.isnan.default)
def isnan(b: Builder, self: Value) -> Value:
    """Whether a value is not a number."""
    return b.binary("NOT_EQUAL", self, self, "bool")


@register(aten.isinf.default)
def isinf(b: Builder, self: Value) -> Value:
    """Whether a value is infinite."""
    return b.binary("EQUAL", b.unary("ABS", self), b.const(float("inf"), self.dtype), "bool")


@register(aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar)
def where(b: Builder, condition: Value, self: Number, other: Number) -> Value:
    """One of two values each."""
    return b.select(b.cast(condition, "bool"), b.scalar(self, b.dtype), b.scalar(other, b.dtype))


@register(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(b: Builder, self: Value, mask: Value, value: Number) -> Value:
    """A value where a mask is set."""
    return b.select(b.cast(mask, "bool"), b.scalar(value, b.dtype), b.cast(self, b.dtype))


@register(aten.nan_to_num.default)
def nan_to_num(b: Builder, self: Value, nan: float | None, posinf: float | None, neginf: float | None) -> Value:
    """Finite numbers in the place of what is none."""
    limits = torch.finfo(getattr(torch, self.dtype))
    number = b.select(isnan(b, self), b.const(nan or 0.0, self.dtype), self)
    high, low = limits.max if posinf is None else posinf, limits.min if neginf is None else neginf
    for infinity, value in ((float("inf"), high), (float("-inf"), low)):
        infinite = b.binary("EQUAL", number, b.const(infinity, self.dtype), "bool")
        number = b.select(infinite, b.const(value, self.dtype), number)
    return number
