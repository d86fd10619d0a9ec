"""Comparisons, logic, and selection by a condition."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from graphwright.lowering.onnx.table import Emission, Number, register

aten = torch.ops.aten


def _compare(kind: str, negate: bool, *targets: Any) -> None:
    def emit(b: Emission, self: Number, other: Number) -> ir.Value:
        left, right = b.promote(self, other)
        if left.dtype == ir.DataType.BOOL and kind != "Equal":
            left, right = b.cast(left, torch.int32), b.cast(right, torch.int32)
        result = b.op(kind, left, right, dtype=torch.bool)
        return b.op("Not", result) if negate else result

    register(*targets)(emit)


_compare("Equal", False, aten.eq.Tensor, aten.eq.Scalar)
_compare("Equal", True, aten.ne.Tensor, aten.ne.Scalar)
_compare("Greater", False, aten.gt.Tensor, aten.gt.Scalar)
_compare("GreaterOrEqual", False, aten.ge.Tensor, aten.ge.Scalar)
_compare("Less", False, aten.lt.Tensor, aten.lt.Scalar)
_compare("LessOrEqual", False, aten.le.Tensor, aten.le.Scalar)


def _logical(kind: str, bitwise: str, *targets: Any) -> None:
    """Logic of booleans; of integers, bit by bit (opset 18)."""

    def emit(b: Emission, self: Number, other: Number) -> ir.Value:
        left, right = b.promote(self, other)
        return b.op(kind if b.result.dtype == torch.bool else bitwise, left, right)

    register(*targets)(emit)


_logical("And", "BitwiseAnd", aten.__and__.Tensor, aten.__and__.Scalar)
_logical("And", "BitwiseAnd", aten.bitwise_and.Tensor, aten.bitwise_and.Scalar)
_logical("Or", "BitwiseOr", aten.__or__.Tensor, aten.__or__.Scalar)
_logical("Or", "BitwiseOr", aten.bitwise_or.Tensor, aten.bitwise_or.Scalar)
_logical("Xor", "BitwiseXor", aten.__xor__.Tensor, aten.__xor__.Scalar)
_logical("Xor", "BitwiseXor", aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar)


def _truth(kind: str, *targets: Any) -> None:
    """Logic of truth values, whatever the types of the arguments."""

    def emit(b: Emission, self: ir.Value, other: ir.Value) -> ir.Value:
        return b.op(kind, b.cast(self, torch.bool), b.cast(other, torch.bool))

    register(*targets)(emit)


_truth("And", aten.logical_and.default)
_truth("Or", aten.logical_or.default)
_truth("Xor", aten.logical_xor.default)


@register(aten.logical_not.default)
def logical_not(b: Emission, self: ir.Value) -> ir.Value:
    """True where the value is zero or false."""
    return b.op("Not", b.cast(self, torch.bool))


@register(aten.bitwise_not.default)
def bitwise_not(b: Emission, self: ir.Value) -> ir.Value:
    """Negation of booleans; of integers, bit by bit."""
    return b.op("Not" if b.result.dtype == torch.bool else "BitwiseNot", self)


@register(aten.where.self, aten.where.Scalar, aten.where.ScalarOther, aten.where.ScalarSelf)
def where(b: Emission, condition: ir.Value, self: Number, other: Number) -> ir.Value:
    """`self` where the condition holds, else `other`."""
    dtype = b.result.dtype
    values = b.scalar(self, dtype), b.scalar(other, dtype)
    return b.op("Where", b.cast(condition, torch.bool), *values, dtype=dtype)


@register(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(b: Emission, self: ir.Value, mask: ir.Value, value: Number) -> ir.Value:
    """`value` where the mask holds, else `self`."""
    return b.op("Where", mask, b.scalar(value, b.result.dtype), self, dtype=b.result.dtype)


@register(aten.isnan.default)
def isnan(b: Emission, self: ir.Value) -> ir.Value:
    """True where the value is not a number."""
    return b.op("IsNaN", self, dtype=torch.bool)


@register(aten.isinf.default)
def isinf(b: Emission, self: ir.Value) -> ir.Value:
    """True where the value is infinite."""
    return b.op("IsInf", b.cast(self, torch.float32), dtype=torch.bool)


@register(aten.nan_to_num.default)
def nan_to_num(b: Emission, self: ir.Value, nan: float | None, posinf: float | None, neginf: float | None) -> ir.Value:
    """Finite numbers in the place of the others."""
    dtype = b.result.dtype
    limits = torch.finfo(dtype)
    zero = b.const(nan or 0.0, dtype)
    value = b.op("Where", b.op("IsNaN", self, dtype=torch.bool), zero, self, dtype=dtype)
    for infinite, limit, given in ((torch.inf, limits.max, posinf), (-torch.inf, limits.min, neginf)):
        found = b.op("Equal", self, b.const(infinite, dtype), dtype=torch.bool)
        value = b.op("Where", found, b.const(limit if given is None else given, dtype), value, dtype=dtype)
    return value
