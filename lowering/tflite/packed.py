"""Packed linears: integer weights with one scale for each row, or for each block of a row."""

from __future__ import annotations

import numpy as np
import torch
from torch.fx import Node

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.ir.node import bound
from graphwright.ir.packed import unpack_codes
from graphwright.lowering.support import Support
from graphwright.lowering.tflite.builder import Builder
from graphwright.lowering.tflite.graph import Quantization, Value
from graphwright.lowering.tflite.matmul import fully_connected
from graphwright.lowering.tflite.table import register

BLOCK = 32
"""The kernels for blocks of int4 take blocks of a multiple of this."""


def _stored(node: Node) -> Support:
    arguments = bound(node)
    parts = [arguments[name] for name in ("weight", "scales", "zeros", "group_index") if arguments[name] is not None]
    if not all(isinstance(part, Node) and part.op == "get_attr" for part in parts):
        return Support.no("the packed weight is computed, not stored", remedy="keep it in the state")
    if bound(node)["input"].meta["val"].shape[-1] % arguments["group_size"]:
        return Support.no("the last group is not whole", remedy="quantize in whole groups")
    return Support.yes()


@register(torch.ops.graphwright.packed_linear.default, validate=_stored)
def packed_linear(
    b: Builder, input: Value, weight: Value, scales: Value, zeros: Value | None, group_index: Value | None,
    bias: Value | None, bits: int, group_size: int,
) -> Value:  # fmt: skip
    """`input @ dequantize(weight).T + bias`."""
    codes = unpack_codes(_tensor(weight), bits, input.shape[-1])
    factors = _tensor(scales).float()
    points = torch.full(factors.shape, 2 ** (bits - 1)) if zeros is None else _tensor(zeros)
    if group_index is not None:
        order = _tensor(group_index).argsort(stable=True)
        codes, input = codes[:, order], b.gather(input, b.const(order.numpy()), input.rank - 1)
    symmetric = bool((points == 2 ** (bits - 1)).all())
    if b.native_packed and symmetric and _has_kernel(bits, group_size, factors.shape[1]):
        matrix = _integers(codes.to(torch.int16) - 2 ** (bits - 1), factors, bits, group_size, weight.name)
    else:
        matrix = _dequantized(b, codes, factors, points, bits, weight.name)
    return fully_connected(b, input, matrix, bias)


def _tensor(value: Value) -> torch.Tensor:
    assert value.data is not None
    return torch.from_numpy(np.ascontiguousarray(value.data))


def _has_kernel(bits: int, group_size: int, groups: int) -> bool:
    """Whether LiteRT multiplies with such integers: 8 or 4 bits per row, or 4 bits in blocks."""
    return groups == 1 or (bits <= 4 and group_size % BLOCK == 0)


def _integers(centred: torch.Tensor, scales: torch.Tensor, bits: int, group_size: int, name: str) -> Value:
    """A weight [out, in] that kernels multiply with as it is."""
    dtype = "int4" if bits <= 4 else "int8"
    if scales.shape[1] == 1:
        quantization = Quantization(scales[:, 0].numpy(), np.zeros(len(scales), np.int64))
    else:
        quantization = Quantization(scales.half().numpy(), block=group_size)
    return Value(tuple(centred.shape), dtype, centred.to(torch.int8).numpy(), name, quantization)


def _dequantized(
    b: Builder, codes: torch.Tensor, scales: torch.Tensor, points: torch.Tensor, bits: int, name: str
) -> Value:
    """A weight that is held as integers and dequantized once, when the model is loaded: each group is a row."""
    middle = 2 ** (bits - 1)
    rows = (codes.to(torch.int16) - middle).to(torch.int8).reshape(scales.numel(), -1)
    zero_points = (points.to(torch.int64) - middle).reshape(-1).numpy()
    quantization = Quantization(scales.reshape(-1).numpy(), zero_points)
    held = Value(tuple(rows.shape), "int8", rows.numpy(), name, quantization)
    wide = b.op("DEQUANTIZE", [held], held.shape, "float32", 5)
    return b.reshape(wide, list(codes.shape))
