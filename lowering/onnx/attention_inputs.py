"""What the inputs of an attention are made from: heads that were split off, rotations, and caches before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch.fx import Node

from graphwright.ir.node import bound, is_call, shape_of
from graphwright.lowering.onnx.rotary import flat_rotary
from graphwright.lowering.onnx.sizes import same_sizes
from graphwright.lowering.onnx.table import Emission

aten = torch.ops.aten
ROTARY = torch.ops.graphwright.rotary_embedding


@dataclass(frozen=True)
class Appended:
    """A cache of [batch, heads, length, size], and what is appended to it.

    Args:
        past: The input that holds it.
        new: What comes after it.
        total: The concatenation.
    """

    past: Node
    new: Node
    total: Node


def appended(node: Any) -> Appended | None:
    """The cache that a key or a value is made from by appending to an input."""
    if not is_call(node, aten.cat) or len(shape_of(node) or ()) != 4:
        return None
    parts, dim = bound(node)["tensors"], bound(node)["dim"]
    if dim not in (2, -2) or len(parts) != 2 or parts[0].op != "placeholder":
        return None
    return Appended(parts[0], parts[1], node)


def is_flat(node: Any) -> bool:
    """Whether [batch, heads, length, size] is a transposition of [batch, length, heads, size], perhaps rotated."""
    if is_call(node, ROTARY):
        return is_flat(bound(node)["x"])
    if not is_call(node, aten.transpose) or len(shape_of(node) or ()) != 4:
        return False
    return {bound(node)[dim] % 4 for dim in ("dim0", "dim1")} == {1, 2}


def flat(b: Emission, node: Node) -> ir.Value:
    """The value as [batch, length, heads * size], without a transposition; only where `is_flat`."""
    arguments = bound(node)
    if is_call(node, ROTARY):
        heads = int(node.meta["val"].shape[1])
        return flat_rotary(b, flat(b, arguments["x"]), node, heads)
    return joined(b, b.value_of(arguments["self"]))


def flattened(b: Emission, node: Node) -> ir.Value:
    """[batch, heads, length, size] as [batch, length, heads * size]."""
    if is_flat(node):
        return flat(b, node)
    return b.op("Reshape", b.op("Transpose", b.value_of(node), perm=[0, 2, 1, 3]), b.const([0, 0, -1]))


def joined(b: Emission, value: ir.Value) -> ir.Value:
    """[batch, length, heads, size] as [batch, length, heads * size]; what it was split from, where that is known."""
    split = value.producer()
    source = split.inputs[0] if split is not None and split.op_type == "Reshape" else None
    whole = b.known(source) if source is not None else None
    if whole is not None and whole.dim() == 3 and same_sizes(whole.shape[:2], b.shape(value)[:2]):
        return source  # type: ignore[return-value]
    return b.op("Reshape", value, b.const([0, 0, -1]))


def split_heads(b: Emission, value: ir.Value) -> ir.Value:
    """[batch, length, heads * size] in the layout of the result of an attention."""
    heads, size = b.result.shape[1], b.result.shape[-1]
    b.annotate(value, b.result.transpose(1, 2).flatten(2))
    return b.op("Transpose", b.op("Reshape", value, b.const([0, 0, int(heads), int(size)])), perm=[0, 2, 1, 3])
