# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
"""The Triton kernel of `activated_linear`.

Two programs live on each processor and take one tile of the result after the other, so that the activation of one runs
beside the products of the other. Tiles come and go by hardware descriptors.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from graphwright.lowering.eager.kernels.activated_linear import ACTIVATIONS


@triton.jit
def _activate(x, KIND: tl.constexpr):
    if KIND == 0:
        # x * Phi(x) with Phi(x) = 1 / (1 + 2^-h(x)): an odd polynomial h fitted to the least error of the product,
        # which is 2.6e-5 at most; past 7 the last terms stay what they are, as Phi is 1 there.
        square = tl.minimum(x * x, 49.0)
        h = x * (2.30112134 + square * (0.106775724 - 0.00101426308 * square))
        x = x / (1.0 + tl.exp2(-h))
    elif KIND == 1:
        inner = 2.302208198 * (x + 0.044715 * x * x * x)
        x = x / (1.0 + tl.exp2(-inner))
    elif KIND == 2:
        x = x / (1.0 + tl.exp2(-1.4426950408889634 * x))
    elif KIND == 3:
        x = tl.maximum(x, 0.0)
    return x


@triton.jit
def _finish(x, bias, cols, N, ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr):
    if HAS_BIAS:
        x += tl.load(bias + cols, mask=cols < N, other=0.0).to(tl.float32)[None, :]
    return _activate(x, ACTIVATION)


@triton.jit
def _activated_linear(
    x_desc, w_desc, out_desc, bias, M, N, K,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PROGRAMS: tl.constexpr,
    ACTIVATION: tl.constexpr, HAS_BIAS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    down = tl.cdiv(M, BM)
    across = tl.cdiv(N, BN)
    for tile in tl.range(tl.program_id(0), down * across, PROGRAMS, flatten=True):
        group = tile // (GROUP * across)
        size = min(down - group * GROUP, GROUP)
        row = (group * GROUP + (tile % (GROUP * across)) % size) * BM
        column = ((tile % (GROUP * across)) // size) * BN
        acc = tl.zeros([BM, BN], tl.float32)
        for k in range(tl.cdiv(K, BK)):
            x = x_desc.load([row, k * BK])
            w = w_desc.load([column, k * BK])
            acc = tl.dot(x, w.T, acc)
        left, right = tl.split(tl.permute(tl.reshape(acc, (BM, 2, BN // 2)), (0, 2, 1)))
        cols = column + tl.arange(0, BN // 2)
        left = _finish(left, bias, cols, N, ACTIVATION, HAS_BIAS)
        out_desc.store([row, column], left.to(DTYPE))
        right = _finish(right, bias, cols + BN // 2, N, ACTIVATION, HAS_BIAS)
        out_desc.store([row, column + BN // 2], right.to(DTYPE))


@cache
def _processors(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def launch(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, sizes: Mapping[str, int]) -> Tensor:
    """Run the kernel; the arguments are those of `activated_linear`, and one of its `FORMS`."""
    flat = x.reshape(-1, x.shape[-1])
    flat = flat if flat.is_contiguous() else flat.contiguous()
    (rows, features), width = flat.shape, weight.shape[0]
    out = flat.new_empty(rows, width)
    if not rows:
        return out.view(*x.shape[:-1], width)
    tiles = triton.cdiv(rows, sizes["BM"]) * triton.cdiv(width, sizes["BN"])
    programs = 2 * _processors(x.device.index or 0)
    _activated_linear[(min(programs, tiles),)](
        TensorDescriptor.from_tensor(flat, [sizes["BM"], sizes["BK"]]),
        TensorDescriptor.from_tensor(weight, [sizes["BN"], sizes["BK"]]),
        TensorDescriptor.from_tensor(out, [sizes["BM"], sizes["BN"] // 2]),
        flat if bias is None else bias.contiguous(), rows, width, features,
        PROGRAMS=programs, ACTIVATION=list(ACTIVATIONS).index(activation), HAS_BIAS=bias is not None,
        DTYPE=tl.float16 if x.dtype == torch.float16 else tl.bfloat16, **sizes,
    )  # fmt: skip
    return out.view(*x.shape[:-1], width)
