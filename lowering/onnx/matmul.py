"""Matrix products."""

from __future__ import annotations

import onnx_ir as ir
import torch

from graphwright.lowering.onnx.table import Emission, Number, register

aten = torch.ops.aten


@register(aten.linear.default)
def linear(b: Emission, input: ir.Value, weight: ir.Value, bias: ir.Value | None) -> ir.Value:
    """`input @ weight.T + bias`; a weight that nothing else reads is stored transposed."""
    if b.rank(weight) == 1:
        product = b.op("MatMul", input, weight)
    elif b.rank(input) == 2 and bias is not None:
        return _gemm(b, input, weight, bias)
    else:
        product = b.op("MatMul", input, b.stored_transposed(weight) or b.op("Transpose", weight, perm=[1, 0]))
    return product if bias is None else b.op("Add", product, bias)


def _gemm(b: Emission, input: ir.Value, weight: ir.Value, bias: ir.Value) -> ir.Value:
    stored = b.stored_transposed(weight)
    return b.op("Gemm", input, weight, bias, transB=1) if stored is None else b.op("Gemm", input, stored, bias)


@register(aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default)
def matmul(
    b: Emission,
    self: ir.Value,
    other: ir.Value | None = None,
    mat2: ir.Value | None = None,
    vec: ir.Value | None = None,
    tensor: ir.Value | None = None,
) -> ir.Value:
    """Matrix product, of stacks of matrices too."""
    right = next(value for value in (other, mat2, vec, tensor) if value is not None)
    return b.op("MatMul", self, right)


@register(aten.addmm.default)
def addmm(b: Emission, self: ir.Value, mat1: ir.Value, mat2: ir.Value, beta: Number, alpha: Number) -> ir.Value:
    """`beta * self + alpha * mat1 @ mat2`."""
    if b.result.dtype.is_floating_point:
        return b.op("Gemm", mat1, mat2, self, alpha=float(alpha), beta=float(beta))  # type: ignore[arg-type]
    return _weighted(b, self, b.op("MatMul", mat1, mat2), beta, alpha)


@register(aten.baddbmm.default)
def baddbmm(b: Emission, self: ir.Value, batch1: ir.Value, batch2: ir.Value, beta: Number, alpha: Number) -> ir.Value:
    """`beta * self + alpha * batch1 @ batch2`; with `beta` 0, `self` is not read."""
    return _weighted(b, self, b.op("MatMul", batch1, batch2), beta, alpha)


def _weighted(b: Emission, base: ir.Value, product: ir.Value, beta: Number, alpha: Number) -> ir.Value:
    dtype = b.result.dtype
    if alpha != 1:
        product = b.op("Mul", product, b.scalar(alpha, dtype))
    if beta == 0:
        return product
    return b.op("Add", base if beta == 1 else b.op("Mul", base, b.scalar(beta, dtype)), product)


@register(aten.einsum.default)
def einsum(b: Emission, equation: str, tensors: list[ir.Value], path: object) -> ir.Value:
    """Einstein summation."""
    return b.op("Einsum", *tensors, equation=equation)
