"""ONNX products: MatMul, Gemm, Einsum; with a constant weight they become `linear`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from graphwright.frontends.onnx.quantization import PackedWeight, packed_product
from graphwright.frontends.onnx.table import Call, register
from graphwright.frontends.onnx.values import tensor
from graphwright.frontends.onnx.weights import Transposed


@register("MatMul")
def matmul(call: Call, a: Any, b: Any) -> torch.Tensor:
    """Product of matrices; by a constant one, a linear."""
    if isinstance(b, Transposed):
        return F.linear(tensor(a), b.weight)
    if isinstance(b, PackedWeight):
        return packed_product(a, b)
    return torch.matmul(tensor(a), tensor(b))


@register("Gemm")
def gemm(call: Call, a: Any, b: Any, c: Any = None) -> torch.Tensor:
    """Compute alpha * A @ B + beta * C, with A and B transposed by option."""
    alpha, beta = call.attr("alpha", 1.0), call.attr("beta", 1.0)
    a, turned = tensor(a).t() if call.attr("transA", 0) else tensor(a), call.attr("transB", 0)
    weight = b.weight if isinstance(b, Transposed) else tensor(b) if turned else tensor(b).t()
    bias = None if c is None else tensor(c)
    if alpha == 1.0 and beta == 1.0 and (bias is None or bias.dim() == 1):
        return F.linear(a, weight, bias)
    product = F.linear(a, weight)
    product = product if alpha == 1.0 else product * alpha
    return product if bias is None else product + (bias if beta == 1.0 else bias * beta)


@register("FusedMatMul", domain="com.microsoft")
def fused_matmul(call: Call, a: Any, b: Any) -> torch.Tensor:
    """Compute alpha * A @ B with the last two dimensions transposed by option."""
    if call.attr("transBatchA", 0) or call.attr("transBatchB", 0):
        raise call.unsupported("transposed batch dimensions")
    a, b = tensor(a), tensor(b)
    a = a.transpose(-1, -2) if call.attr("transA", 0) else a
    b = b.transpose(-1, -2) if call.attr("transB", 0) else b
    product, alpha = torch.matmul(a, b), call.attr("alpha", 1.0)
    return product if alpha == 1.0 else product * alpha


@register("Einsum")
def einsum(call: Call, *operands: Any) -> torch.Tensor:
    """Sum of products by an equation."""
    return torch.einsum(call.attr("equation"), *[tensor(part) for part in operands])


@register("MatMulInteger")
def matmul_integer(call: Call, a: Any, b: Any, a_zero: Any = None, b_zero: Any = None) -> torch.Tensor:
    """Product of 8-bit matrices in 32 bits."""
    a, b = tensor(a).to(torch.int32), tensor(b).to(torch.int32)
    a = a if a_zero is None else a - tensor(a_zero).to(torch.int32)
    b = b if b_zero is None else b - tensor(b_zero).to(torch.int32)
    return torch.matmul(a, b)
