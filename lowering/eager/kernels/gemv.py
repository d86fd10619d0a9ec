"""`graphwright::gemv`: linears of a few rows together with what comes before and after them.

With few rows a linear is bound by reading its weight once, so the norm before it and the activation, the gate and the
residual after it cost nothing where they happen in the same kernel. Several weights are read where they lie: merging
linears needs no second copy of them.

The reference, made of ATen ops, is what runs wherever the kernel does not: on CPUs, with many rows, without Triton.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("graphwright", "FRAGMENT")
MAX_ROWS = 4
NORMS = ("none", "rms", "rms_cast", "layer")
ACTIVATIONS = ("none", "silu", "gelu", "gelu_tanh", "relu")

_LIBRARY.define(
    "gemv(Tensor x, Tensor[] weights, Tensor?[] biases, *, str norm='none', Tensor? norm_weight=None,"
    " Tensor? norm_bias=None, float eps=0.0, str activation='none', bool gated=False, Tensor? residual=None) -> Tensor"
)


def gemv(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    *,
    norm: str = "none",
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 0.0,
    activation: str = "none",
    gated: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """`activation(norm(x) @ weight^T + bias) + residual`, for several weights side by side.

    Args:
        x: [..., features in].
        weights: Each [features out, features in]; one to three.
        biases: One or None for each weight, [features out].
        norm: `none`; `rms`, weighted in float32; `rms_cast`, rounded to the dtype of `x` and then weighted; `layer`.
        norm_weight: [features in].
        norm_bias: [features in], of a layer norm.
        eps: Of the norm.
        activation: `none`, `silu`, `gelu`, `gelu_tanh` or `relu`.
        gated: The activation is applied to the first of two products, and multiplied by the second.
        residual: Added in the end, as the result.

    Returns:
        [..., all features out], or with `gated` those of one weight.
    """
    return _run(x, weights, biases, norm, norm_weight, norm_bias, eps, activation, gated, residual)


def reference(
    x: Tensor,
    weights: Sequence[Any],
    biases: Sequence[Tensor | None],
    *,
    norm: str = "none",
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 0.0,
    activation: str = "none",
    gated: bool = False,
    residual: Tensor | None = None,
    linear: Callable[[Tensor, Any, Tensor | None], Tensor] = torch.nn.functional.linear,
) -> Tensor:
    """The same by ATen ops; `linear` multiplies with each of the weights."""
    x = _normed(x, norm, norm_weight, norm_bias, eps)
    parts = [linear(x, w, b) for w, b in zip(weights, biases, strict=True)]
    parts[0] = _activated(parts[0], activation)
    result = parts[0] * parts[1] if gated else torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
    return result if residual is None else residual + result


def _normed(x: Tensor, norm: str, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    sizes = [x.shape[-1]]
    if norm == "rms":
        return torch.rms_norm(x, sizes, weight, eps)
    if norm == "rms_cast":
        normed = torch.rms_norm(x, sizes, None, eps)
        return normed if weight is None else weight * normed
    return torch.layer_norm(x, sizes, weight, bias, eps) if norm == "layer" else x


def _activated(x: Tensor, activation: str) -> Tensor:
    functional = torch.nn.functional
    if activation == "gelu_tanh":
        return functional.gelu(x, approximate="tanh")
    return x if activation == "none" else getattr(functional, activation)(x)


def _run(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    norm: str,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    activation: str,
    gated: bool,
    residual: Tensor | None,
) -> Tensor:
    options = {
        "norm": norm, "norm_weight": norm_weight, "norm_bias": norm_bias, "eps": eps, "activation": activation,
        "gated": gated, "residual": residual,
    }  # fmt: skip
    if x.is_cuda and x.numel() <= MAX_ROWS * x.shape[-1] and all(weight.is_contiguous() for weight in weights):
        from graphwright.lowering.eager.kernels.gemv_triton import launch

        return launch(x, weights, biases, **options)  # type: ignore[arg-type]
    return reference(x, weights, biases, **options)  # type: ignore[arg-type]


def _fake(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], *, gated: bool = False, **_: object
) -> Tensor:
    width = weights[0].shape[0] if gated else sum(weight.shape[0] for weight in weights)
    return x.new_empty((*x.shape[:-1], width))


_LIBRARY.impl("gemv", gemv, "CompositeExplicitAutograd")
torch.library.register_fake("graphwright::gemv", _fake, lib=_LIBRARY)
