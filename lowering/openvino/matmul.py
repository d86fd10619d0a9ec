"""Products of matrices."""

from __future__ import annotations

from typing import Any

import torch

from graphwright.lowering.openvino.builder import Builder, Number, Value, op
from graphwright.lowering.openvino.table import register

aten = torch.ops.aten


@register(aten.linear.default)
def linear(b: Builder, input: Value, weight: Value, bias: Value | None) -> Any:
    """`input @ weight.T + bias`."""
    product = op.matmul(input.out, weight.out, False, True)
    return product if bias is None or b.only(bias, 0) else op.add(product, bias.out)


@register(aten.matmul.default, aten.mm.default, aten.bmm.default)
def matmul(b: Builder, self: Value, **others: Value) -> Any:
    """Product of matrices, vectors, or batches of them."""
    return op.matmul(self.out, next(iter(others.values())).out, False, False)


@register(aten.mv.default)
def matrix_vector(b: Builder, self: Value, vec: Value) -> Any:
    """Product of a matrix and a vector."""
    return op.matmul(self.out, vec.out, False, False)


@register(aten.dot.default)
def dot(b: Builder, self: Value, tensor: Value) -> Any:
    """Product of two vectors."""
    return op.matmul(self.out, tensor.out, False, False)


def _plus(b: Builder, self: Value, product: Any, beta: Number, alpha: Number) -> Any:
    if alpha != 1:
        product = op.multiply(product, b.scalar(alpha, self.dtype))
    if beta == 0 or b.only(self, 0):
        return product
    return op.add(product, self.out if beta == 1 else op.multiply(self.out, b.scalar(beta, self.dtype)))


@register(aten.addmm.default)
def addmm(b: Builder, self: Value, mat1: Value, mat2: Value, beta: Number, alpha: Number) -> Any:
    """`beta * self + alpha * mat1 @ mat2`."""
    return _plus(b, self, op.matmul(mat1.out, mat2.out, False, False), beta, alpha)


@register(aten.baddbmm.default)
def baddbmm(b: Builder, self: Value, batch1: Value, batch2: Value, beta: Number, alpha: Number) -> Any:
    """`beta * self + alpha * batch1 @ batch2`."""
    return _plus(b, self, op.matmul(batch1.out, batch2.out, False, False), beta, alpha)


@register(aten.einsum.default)
def einsum(b: Builder, equation: str, tensors: list[Value], **_: Any) -> Any:
    """Sum of products by an equation."""
    return op.einsum([b.cast(t, b.result.dtype) for t in tensors], equation.replace(" ", ""))
