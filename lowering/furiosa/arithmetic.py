"""Elementwise ops."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphwright.lowering.furiosa.decompositions import rule

aten = torch.ops.aten


@rule(aten.gelu.default)
def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """GELU by the error function, or by a hyperbolic tangent."""
    if approximate == "tanh":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))
    return 0.5 * x * (1 + torch.erf(x * math.sqrt(0.5)))


@rule(aten.logical_or.default)
def logical_or(x: Tensor, other: Tensor) -> Tensor:
    """Or of two masks."""
    return torch.bitwise_or(x != 0, other != 0)


@rule(aten.bitwise_not.default)
def bitwise_not(x: Tensor) -> Tensor:
    """Not of a mask; of integers, the complement."""
    return torch.logical_not(x) if x.dtype == torch.bool else -x - 1


@rule(aten.isinf.default)
def isinf(x: Tensor) -> Tensor:
    """Whether entries are infinite."""
    return torch.abs(x) == math.inf


@rule(aten.hardtanh.default)
def hardtanh(x: Tensor, min_val: float = -1, max_val: float = 1) -> Tensor:
    """Entries brought into a range."""
    return torch.clamp(x, min_val, max_val)


@rule(aten.pow.Tensor_Tensor)
def power(x: Tensor, exponent: Tensor) -> Tensor:
    """Powers of what is not negative: products of a logarithm."""
    return torch.exp(torch.log(x) * exponent)


@rule(aten.log2.default)
def log2(x: Tensor) -> Tensor:
    """Logarithm to base 2."""
    return torch.log(x) * (1 / math.log(2))


@rule(aten.clamp.Tensor)
def clamp_tensor(x: Tensor, min: Tensor | None = None, max: Tensor | None = None) -> Tensor:
    """Entries brought into a range of tensors."""
    x = x if min is None else torch.maximum(x, min)
    return x if max is None else torch.minimum(x, max)


@rule(aten.elu.default)
def elu(x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Tensor:
    """Linear above zero, an exponential below."""
    below = alpha * (torch.exp(torch.clamp(x, max=0) * input_scale) - 1)
    return scale * (torch.relu(x) + torch.where(x > 0, torch.zeros_like(x), below))


@rule(aten.softplus.default)
def softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    """`log(1 + exp(x))` without overflow; above the threshold torch takes `x`, which differs by rounding."""
    return torch.relu(x) + torch.log(torch.exp(-torch.abs(x * beta)) + 1) / beta


@rule(aten.log1p.default)
def log1p(x: Tensor) -> Tensor:
    """`log(1 + x)`; the error is one of rounding at 1, not at x."""
    return torch.log(x + 1)


@rule(aten.expm1.default)
def expm1(x: Tensor) -> Tensor:
    """`exp(x) - 1`; the error is one of rounding at 1, not at x."""
    return torch.exp(x) - 1


@rule(aten.log10.default)
def log10(x: Tensor) -> Tensor:
    """Logarithm to base 10."""
    return torch.log(x) * (1 / math.log(10))


@rule(aten.exp2.default)
def exp2(x: Tensor) -> Tensor:
    """Powers of 2."""
    return torch.exp(x * math.log(2))


@rule(aten.pow.Scalar)
def power_of(base: float, exponent: Tensor) -> Tensor:
    """Powers of a positive number."""
    return torch.exp(exponent * math.log(base))


@rule(aten.erfc.default)
def erfc(x: Tensor) -> Tensor:
    """What the error function leaves to 1."""
    return 1 - torch.erf(x)


@rule(aten.tan.default)
def tan(x: Tensor) -> Tensor:
    """Tangent."""
    return torch.sin(x) / torch.cos(x)


@rule(aten.sign.default)
def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1."""
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)
