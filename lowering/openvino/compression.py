"""Compression of float weights to 8 or 4 bits, round to nearest, as OpenVINO keeps them in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from openvino import Type

from graphwright.lowering.openvino.builder import TYPES, Builder, op
from graphwright.lowering.openvino.packed import decompressed

KINDS = ("f16", "i8", "u4")
GROUP = 128


def compressed(b: Builder, tensor: torch.Tensor, kind: str) -> Any:
    """A matrix [out, in] held in few bits, and the operators that decompress it.

    Args:
        b: The builder.
        tensor: Float.
        kind: `f16`; `i8`, symmetric for each row; `u4`, with a zero point for each group of 128 inputs (or 64, 32
            where 128 does not divide them; else `i8`).
    """
    matrix, dtype = tensor.detach().float(), tensor.dtype
    if kind == "f16":
        return op.convert(op.constant(matrix.half().numpy()), TYPES[dtype]).output(0)
    group = next((size for size in (GROUP, 64, 32) if matrix.shape[1] % size == 0), 0)
    if kind == "u4" and group:
        return _unsigned_four(b, matrix, group, dtype)
    scale = (matrix.abs().amax(1, keepdim=True) / 127).clamp(min=1e-8).half()
    codes = (matrix / scale.float()).round().clamp(-127, 127).to(torch.int8)
    held = op.convert(op.constant(np.ascontiguousarray(codes.numpy())), Type.f16)
    return op.convert(op.multiply(held, op.constant(scale.numpy())), TYPES[dtype]).output(0)


def _unsigned_four(b: Builder, matrix: torch.Tensor, group: int, dtype: torch.dtype) -> Any:
    grid = matrix.reshape(matrix.shape[0], -1, group)
    low, high = grid.amin(2).clamp(max=0), grid.amax(2).clamp(min=0)
    scale = ((high - low) / 15).clamp(min=1e-8).half()
    zero = (-low / scale.float()).round().clamp(0, 15)
    codes = ((grid / scale.float()[..., None]).round() + zero[..., None]).clamp(0, 15)
    return decompressed(b, codes.reshape(matrix.shape).to(torch.uint8), scale, zero.to(torch.uint8), 4, group, dtype)
