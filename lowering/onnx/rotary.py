"""Rotary position embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from graphwright.ir.node import argument, bound, is_call, shape_of
from graphwright.lowering.onnx.sizes import expression
from graphwright.lowering.onnx.table import Emission, register
from graphwright.lowering.support import Support

aten = torch.ops.aten
_KEEP_HALVES = (aten.cos, aten.sin, aten.mul, aten.unsqueeze, aten.to, aten._to_copy, aten.slice, aten.expand)


def _doubled(node: object) -> bool:
    """Whether both halves of the last dimension are equal: they are made from `cat([angles, angles])`."""
    while isinstance(node, Node):
        if is_call(node, aten.cat):
            parts, dim = bound(node)["tensors"], bound(node)["dim"]
            rank = len(shape_of(node) or ())
            return dim in (-1, rank - 1) and len(parts) == 2 and parts[0] is parts[1]
        if not is_call(node, *_KEEP_HALVES):
            return False
        if is_call(node, aten.mul) and isinstance(argument(node, "other"), Node):
            return False
        if is_call(node, aten.slice, aten.unsqueeze) and argument(node, "dim") in (-1, len(shape_of(node) or ()) - 1):
            return False
        node = node.args[0]
    return False


def _expressible(node: Node) -> Support:
    x, cos, sin = (bound(node)[name] for name in ("x", "cos", "sin"))
    shapes = [shape_of(part) or () for part in (x, cos, sin)]
    if len(shapes[0]) != 4 or any(len(shape) not in (3, 4) for shape in shapes[1:]) or bound(node)["interleaved"]:
        return Support.no("a layout that RotaryEmbedding does not have")
    if any(len(shape) == 4 and shape[1] != 1 for shape in shapes[1:]) or any(len(shape) == 3 for shape in shapes[1:]):
        return Support.no("angles that differ between the heads")
    lengths = {expression(shape[2]) for shape in shapes}
    if len(lengths) != 1 or not (_doubled(cos) and _doubled(sin)):
        return Support.no("cosines that are not the same for both halves")
    return Support.yes()


@register(torch.ops.graphwright.rotary_embedding.default, validate=_expressible)
def rotary_embedding(b: Emission, x: ir.Value, cos: ir.Value, sin: ir.Value, interleaved: bool) -> ir.Value:
    """Rotary embedding of `[batch, heads, length, size]`, its own operator from opset 23.

    The operator takes the cosines of half the features, per batch row. ONNX Runtime has no kernel of it for double.
    """
    width = int(b.shape(cos)[-1])
    assert b.node is not None
    if not is_operator(b, b.node):
        return _written_out(b, x, cos, sin, width)
    partial = width if width != b.shape(x)[-1] else None
    return b.op("RotaryEmbedding", x, *_halves(b, b.shape(x), cos, sin), rotary_embedding_dim=partial)


def flat_rotary(b: Emission, x: ir.Value, node: Node, heads: int) -> ir.Value:
    """The rotation of `node` on [batch, length, heads * size], where `is_operator`."""
    shape, angles = node.meta["val"].shape, [b.value_of(bound(node)[name]) for name in ("cos", "sin")]
    width = int(b.shape(angles[0])[-1])
    partial = width if width != shape[-1] else None
    return b.op("RotaryEmbedding", x, *_halves(b, shape, *angles), num_heads=heads, rotary_embedding_dim=partial)


def is_operator(b: Emission, node: Node) -> bool:
    """Whether a rotation becomes ONNX's operator."""
    return b.opset >= 23 and node.meta["val"].dtype != torch.float64


def _halves(b: Emission, shape: Sequence[Any], cos: ir.Value, sin: ir.Value) -> list[ir.Value]:
    """Cosines and sines of [batch, 1, length, width] as [batch, length, width / 2], for values of a shape."""
    batch, _, length, _ = shape
    width = int(b.shape(cos)[-1])
    halves = []
    for part in (cos, sin):
        flat = b.op("Squeeze", part, b.axes(1))
        half = b.op("Slice", flat, b.const([0]), b.const([width // 2]), b.const([-1]))
        same = expression(b.shape(part)[0]) == expression(batch)
        halves.append(half if same else b.op("Expand", half, b.sizes.vector([batch, length, width // 2])))
    return halves


def _written_out(b: Emission, x: ir.Value, cos: ir.Value, sin: ir.Value, width: int) -> ir.Value:
    """`part * cos + concat(-second, first) * sin`, beside the features that pass through."""
    dtype = b.result.dtype

    def features(start: int, end: int) -> ir.Value:
        return b.op("Slice", x, b.const([start]), b.const([end]), b.const([-1]))

    size = int(b.shape(x)[-1])
    part = x if width == size else features(0, width)
    turned = b.op("Concat", b.op("Neg", features(width // 2, width)), features(0, width // 2), axis=-1)
    products = [
        b.op("Mul", b.cast(side, dtype), b.cast(factor, dtype)) for side, factor in ((part, cos), (turned, sin))
    ]
    result = b.op("Add", *products)
    return result if width == size else b.op("Concat", result, b.cast(features(width, size), dtype), axis=-1)
