"""`graphwright::packed_gemv`: packed linears of one row together with what comes before and after them.

The counterpart of `graphwright::gemv` for `graphwright::packed_linear`. This op is the reference, made of ATen ops; the
eager target puts the Triton kernel in its place on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphwright.ir.packed import packed_linear
from graphwright.lowering.eager.kernels.gemv import reference

_LIBRARY = torch.library.Library("graphwright", "FRAGMENT")
_LIBRARY.define(
    "packed_gemv(Tensor x, Tensor[] weights, Tensor[] scales, Tensor?[] zeros, Tensor?[] biases, int bits,"
    " int group_size, *, str norm='none', Tensor? norm_weight=None, Tensor? norm_bias=None, float eps=0.0,"
    " str activation='none', bool gated=False, Tensor? residual=None) -> Tensor"
)


def packed_gemv(
    x: Tensor,
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
    zeros: Sequence[Tensor | None],
    biases: Sequence[Tensor | None],
    bits: int,
    group_size: int,
    *,
    norm: str = "none",
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 0.0,
    activation: str = "none",
    gated: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """`activation(norm(x) @ W^T + bias) + residual` for several packed weights side by side.

    `weights`, `scales`, `zeros`, `bits` and `group_size` are those of `packed_linear`, one of each for each weight; all
    other arguments are those of `gemv`.

    Returns:
        [..., all outputs], or with `gated` those of one weight.
    """
    options = {
        "norm": norm, "norm_weight": norm_weight, "norm_bias": norm_bias, "eps": eps, "activation": activation,
        "gated": gated, "residual": residual,
    }  # fmt: skip
    parts = list(zip(weights, scales, zeros, strict=True))
    multiply = lambda x, part, bias: packed_linear(x, *part, None, bias, bits, group_size)  # type: ignore[call-arg]  # noqa: E731
    return reference(x, parts, biases, linear=multiply, **options)  # type: ignore[arg-type]


def _fake(
    x: Tensor, weights: Sequence[Tensor], scales: Sequence[Tensor], *rest: object, gated: bool = False, **_: object
) -> Tensor:
    width = scales[0].shape[0] if gated else sum(scale.shape[0] for scale in scales)
    return x.new_empty((*x.shape[:-1], width))


_LIBRARY.impl("packed_gemv", packed_gemv, "CompositeExplicitAutograd")
torch.library.register_fake("graphwright::packed_gemv", _fake, lib=_LIBRARY)
