"""Packed linears: weights of 4 or 8 bits that are decompressed where they are multiplied.

The pattern is the one that OpenVINO's plugins keep compressed: codes, less a zero point, by a scale in half precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import Type
from torch import Tensor
from torch.fx import Node

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.ir.node import bound, shape_of
from graphwright.ir.packed import unpack_codes
from graphwright.lowering.openvino.builder import TYPES, Builder, Value, op
from graphwright.lowering.openvino.table import register
from graphwright.lowering.support import Support


def _expressible(node: Node) -> Support:
    arguments = bound(node)
    parts = [arguments[name] for name in ("weight", "scales", "zeros", "group_index") if arguments[name] is not None]
    if not all(isinstance(part, Node) and part.op == "get_attr" for part in parts):
        return Support.no("the packed weight is computed, not stored", remedy="keep it in the state")
    inputs = int((shape_of(arguments["input"]) or (0,))[-1])
    if inputs % arguments["group_size"]:
        return Support.no("the last group is not whole", remedy="quantize in whole groups")
    return Support.yes()


@register(torch.ops.graphwright.packed_linear.default, validate=_expressible)
def packed_linear(
    b: Builder, input: Value, weight: Value, scales: Value, zeros: Value | None, group_index: Value | None,
    bias: Value | None, bits: int, group_size: int,
) -> Any:  # fmt: skip
    """`input @ dequantize(weight).T + bias`."""
    inputs, data = int(input.shape[-1]), input.out
    codes = unpack_codes(stored(weight), bits, inputs)
    if group_index is not None:
        order = stored(group_index).argsort(stable=True)
        codes = codes[:, order]
        data = op.gather(data, b.const(order.tolist()), b.const(input.rank - 1)).output(0)
    points = None if zeros is None else stored(zeros)
    matrix = decompressed(b, codes, stored(scales), points, bits, group_size, input.dtype)
    product = op.matmul(data, matrix, False, True)
    return product if bias is None else op.add(product, b.cast(bias, input.dtype))


def stored(value: Value) -> Tensor:
    """The tensor of a constant."""
    array = value.out.get_node().data
    return torch.from_numpy(np.array(array))


def decompressed(
    b: Builder, codes: Tensor, scales: Tensor, zeros: Tensor | None, bits: int, group_size: int, dtype: torch.dtype
) -> Any:
    """A constant matrix [out, in] in `dtype`, held as codes.

    Args:
        b: The builder.
        codes: uint8 [out, in].
        scales: [out, groups].
        zeros: uint8 [out, groups]; None for the middle of the range.
        bits: Width of a code; those below 4 are held in 4.
        group_size: Items along `in` with one scale.
        dtype: Element type of the result.
    """
    outputs, inputs = codes.shape
    groups = inputs // group_size
    kind = Type.u8 if bits == 8 else Type.u4
    points = torch.full((outputs, groups), 2 ** (bits - 1), dtype=torch.uint8) if zeros is None else zeros
    grid = integers(b, codes.reshape(outputs, groups, group_size), kind)
    zero = integers(b, points.reshape(outputs, groups, 1), kind)
    centred = op.subtract(op.convert(grid, Type.f16), op.convert(zero, Type.f16))
    factor = np.ascontiguousarray(scales.to(torch.float16).reshape(outputs, groups, 1).numpy())
    scaled = op.multiply(centred, op.constant(factor))
    flat = op.reshape(scaled, b.const([outputs, inputs]), False)
    return op.convert(flat, TYPES[dtype]).output(0)


def integers(b: Builder, codes: Tensor, kind: Type) -> Any:
    """Codes as a constant; its memory is the constant's own."""
    if kind == Type.u8:
        return op.constant(np.ascontiguousarray(codes.numpy()))
    flat = torch.nn.functional.pad(codes.reshape(-1), (0, codes.numel() % 2))
    packed = (flat[::2] | flat[1::2] << 4).numpy()
    data = ov.Tensor(kind, ov.Shape(list(codes.shape)))
    data.data[:] = packed.reshape(data.data.shape)
    b.kept.append(data)
    return op.constant(data)
