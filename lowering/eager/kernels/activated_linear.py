"""A linear and the activation after it as one product, where that is faster than cuBLAS and an activation of its own.

The reference, made of ATen ops, is what runs wherever the kernel does not: with few rows, on CPUs, before Hopper,
without Triton.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": torch.nn.functional.silu,
    "relu": torch.relu,
}
_TILE = 128
_FEWEST_TILES = 264  # two for each processor of an H100: with fewer, cuBLAS is faster


def activated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """`activation(x @ weight^T + bias)`.

    In half precision the kernel rounds once, after the activation, and its GELU is within 3e-5 of the exact one.

    Args:
        x: [..., features in].
        weight: [features out, features in].
        bias: [features out], None for none.
        activation: `gelu`, `gelu_tanh`, `silu` or `relu`.

    Returns:
        [..., features out].
    """
    if x.is_cuda and has_kernel(x, weight):
        from graphwright.lowering.eager.kernels.activated_linear_triton import launch

        return launch(x, weight, bias, activation)
    return ACTIVATIONS[activation](torch._C._nn.linear(x, weight, bias))


def has_kernel(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel reads these tensors, on a GPU, and is the faster way."""
    features_out, features_in = weight.shape
    tiles = -(-x.numel() // (features_in * _TILE)) * -(-features_out // _TILE)
    return (
        tiles >= _FEWEST_TILES
        and x.dtype in (torch.float16, torch.bfloat16)
        and features_in % 8 == features_out % 8 == 0
        and weight.is_contiguous()
        and _has_descriptors(x.device.index or 0)
    )


@cache
def _has_descriptors(index: int) -> bool:
    """Whether the GPU copies tiles by descriptor, and Triton is there to say so."""
    return find_spec("triton") is not None and torch.cuda.get_device_capability(index)[0] == 9


def sizes_of(**chosen: Any) -> dict[str, Any]:
    """Sizes of the kernel's programs with some of them changed; the others are the best on an H100."""
    return {"BM": 128, "BN": 128, "BK": 64, "GROUP": 8, "num_warps": 4, "num_stages": 3} | chosen
