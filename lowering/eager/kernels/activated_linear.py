"""A linear and the activation after it in the fastest of several forms: ATen's, or one kernel of our own.

Which form is the fastest is measured when a number of rows is first seen, outside of recordings, and kept for the
process. On CPUs, before Hopper and without Triton, ATen's ops run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from graphwright.lowering.eager.replay import side_stream

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": torch.nn.functional.silu,
    "relu": torch.relu,
    "none": lambda x: x,
}
# Tiles of the kernel's programs, and what else their speed depends on; the best ones on an H100 for many and few rows.
FORMS: dict[str, dict[str, int]] = {
    "large": {"BM": 128, "BN": 128, "BK": 64, "GROUP": 8, "num_warps": 4, "num_stages": 3},
    "small": {"BM": 64, "BN": 64, "BK": 64, "GROUP": 8, "num_warps": 4, "num_stages": 4},
}
_ADVANTAGE = 0.97  # of ATen's time, at most, for another form to be worth it
_RUNS = 8
_chosen: dict[Any, str] = {}


def activated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """`activation(x @ weight^T + bias)`.

    In half precision the kernel rounds once, after the activation, and its GELU is within 3e-5 of the exact one.

    Args:
        x: [..., features in].
        weight: [features out, features in].
        bias: [features out], None for none.
        activation: `gelu`, `gelu_tanh`, `silu`, `relu` or `none`.

    Returns:
        [..., features out].
    """
    form = _form(x, weight, bias, activation) if x.is_cuda and has_kernel(x, weight) else ""
    return run(form, x, weight, bias, activation)


def run(form: str, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """`activated_linear` in one of `FORMS`, or with ATen's ops for an empty name."""
    if not form:
        return ACTIVATIONS[activation](torch._C._nn.linear(x, weight, bias))
    from graphwright.lowering.eager.kernels.activated_linear_triton import launch

    return launch(x, weight, bias, activation, FORMS[form])


def has_kernel(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel reads these tensors, on a GPU."""
    features_out, features_in = weight.shape
    return (
        x.dtype in (torch.float16, torch.bfloat16)
        and features_in % 8 == features_out % 8 == 0
        and weight.is_contiguous()
        and _has_descriptors(x.device.index or 0)
    )


@cache
def _has_descriptors(index: int) -> bool:
    """Whether the GPU copies tiles by descriptor, and Triton is there to say so."""
    return find_spec("triton") is not None and torch.cuda.get_device_capability(index)[0] == 9


def _form(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> str:
    """The fastest form for about as many rows."""
    rows = x.numel() // weight.shape[1]
    step = 1 << max(rows.bit_length() - 4, 0)
    key = (x.device.index, x.dtype, -(-rows // step) * step, tuple(weight.shape), bias is None, activation)
    if key not in _chosen:
        if torch.cuda.is_current_stream_capturing() or not rows:
            return ""
        _chosen[key] = _fastest(x, weight, bias, activation)
    return _chosen[key]


def _fastest(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> str:
    times = {form: _milliseconds(form, x, weight, bias, activation) for form in ("", *FORMS)}
    best = min(FORMS, key=times.__getitem__)
    return best if times[best] < _ADVANTAGE * times[""] else ""


def _milliseconds(form: str, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> float:
    """Time of a call in a CUDA graph: launched one by one, small kernels would all take the host's time."""
    stream, graph = side_stream(torch.cuda.current_device()), torch.cuda.CUDAGraph()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        run(form, x, weight, bias, activation)
        stream.synchronize()
        graph.capture_begin()
        for _ in range(_RUNS):
            run(form, x, weight, bias, activation)
        graph.capture_end()
        graph.replay()
        events[0].record()
        graph.replay()
        events[1].record()
    events[1].synchronize()
    return events[0].elapsed_time(events[1]) / _RUNS
