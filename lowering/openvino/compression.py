"""Compression of float weights to 8 or 4 bits, round to nearest, as OpenVINO keeps them in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from openvino import Type
from torch.fx import Node

from graphwright.ir.node import bound
from graphwright.lowering.openvino.builder import TYPES, Builder, op
from graphwright.lowering.openvino.packed import decompressed

KINDS = ("f16", "i8", "u4")
GROUP = 128
SMALL = 1024
"""Weights with fewer items stay as they are."""
STEP = 2**-24
"""The smallest scale, which half precision just holds."""

aten = torch.ops.aten
_READ = {
    aten.linear.default: "weight", aten.embedding.default: "weight", aten.index.Tensor: "self",
    aten.conv1d.default: "weight", aten.conv2d.default: "weight", aten.conv3d.default: "weight",
}  # fmt: skip


def chosen(kind: str, node: Node, tensor: torch.Tensor, readers: Sequence[Node]) -> str:
    """How a weight is held, of `KINDS`; `""` for one that stays as it is.

    Four bits are for linears; tables, convolutions and the last linear, which the results depend on most, keep eight.

    Args:
        kind: What was asked for.
        node: The weight.
        tensor: Its value.
        readers: The calls that read it when the model runs.
    """
    large = tensor.dim() > 1 and tensor.is_floating_point() and tensor.numel() >= SMALL
    if not large or not all(user.target in _READ and bound(user)[_READ[user.target]] is node for user in readers):
        return ""
    if kind == "u4" and not all(user.target is aten.linear.default and _linear_after(user) for user in readers):
        return "i8"
    return kind


def _linear_after(node: Node) -> bool:
    """Whether another linear follows in the program."""
    while node.op != "root":
        node = node.next
        if node.target is aten.linear.default:
            return True
    return False


def compressed(b: Builder, tensor: torch.Tensor, kind: str) -> Any:
    """A weight [out, ...] held in few bits, and the operators that decompress it.

    Args:
        b: The builder.
        tensor: Float, of two or more dimensions.
        kind: `f16`; `i8`, symmetric for each row; `u4`, with a zero point for each group of 128 inputs (or 64, 32
            where 128 does not divide them; else `i8`), for a matrix [out, in].
    """
    weight, dtype = tensor.detach().float(), tensor.dtype
    if kind == "f16":
        return op.convert(op.constant(weight.half().numpy()), TYPES[dtype]).output(0)
    group = next((size for size in (GROUP, 64, 32) if weight.shape[1] % size == 0), 0)
    if kind == "u4" and group:
        return _unsigned_four(b, weight, group, dtype)
    largest = weight.abs().amax(tuple(range(1, weight.dim())), keepdim=True)
    scale = (largest / 127).clamp(min=STEP).half()
    codes = (weight / scale.float()).round().clamp(-127, 127).to(torch.int8)
    held = op.convert(op.constant(np.ascontiguousarray(codes.numpy())), Type.f16)
    return op.convert(op.multiply(held, op.constant(scale.numpy())), TYPES[dtype]).output(0)


def _unsigned_four(b: Builder, matrix: torch.Tensor, group: int, dtype: torch.dtype) -> Any:
    grid = matrix.reshape(matrix.shape[0], -1, group)
    low, high = grid.amin(2).clamp(max=0), grid.amax(2).clamp(min=0)
    scale = ((high - low) / 15).clamp(min=STEP).half()
    zero = (-low / scale.float()).round().clamp(0, 15)
    codes = ((grid / scale.float()[..., None]).round() + zero[..., None]).clamp(0, 15)
    return decompressed(b, codes.reshape(matrix.shape).to(torch.uint8), scale, zero.to(torch.uint8), 4, group, dtype)
