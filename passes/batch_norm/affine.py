"""A batch norm in evaluation mode as scale and shift per channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.node import bound, shape_of, value_of
from graphwright.passes.patterns import Match

aten = torch.ops.aten


@dataclass(frozen=True)
class Affine:
    """`batch_norm(x) = x * scale + shift`, both of one element per channel."""

    scale: Node
    shift: Node


def check_evaluation(m: Match) -> None:
    """The batch norm uses its running statistics.

    A batch norm without affine weights has scale 1 and shift 0: `affine=False` needs no check.
    """
    arguments = bound(m.norm.node)
    m.require(not arguments.get("training"), "training mode: the statistics are those of the batch", at=m.norm)
    has_statistics = arguments["running_mean"] is not None and arguments["running_var"] is not None
    m.require(has_statistics, "without running statistics those of the batch are used", at=m.norm)


def affine_of(norm: Node, dtype: torch.dtype, rw: Edit) -> Affine:
    """Scale and shift as expressions on the state, computed in the dtype of the statistics, given in `dtype`."""
    arguments = bound(norm)
    scale = rw.aten.rsqrt(rw.aten.add(arguments["running_var"], arguments["eps"]))
    if arguments["weight"] is not None:
        scale = rw.aten.mul(scale, arguments["weight"])
    shift = rw.aten.neg(rw.aten.mul(arguments["running_mean"], scale))
    if arguments["bias"] is not None:
        shift = rw.aten.add(shift, arguments["bias"])
    return Affine(_in(scale, dtype, rw), _in(shift, dtype, rw))


def _in(node: Node, dtype: torch.dtype, rw: Edit) -> Node:
    return node if value_of(node).dtype == dtype else rw.call(aten.to.dtype, node, dtype)


def scaled(weight: Any, affine: Affine, axis: int, rw: Edit) -> Node:
    """The weight times the scale along one of its axes."""
    rank = len(shape_of(weight.node) or ())
    sizes = [-1 if i == axis else 1 for i in range(rank)]
    return rw.aten.mul(weight, rw.call(aten.reshape.default, affine.scale, sizes))


def per_output(bias: Any, affine: Affine, rw: Edit) -> Node:
    """The bias of a layer in front: `bias * scale + shift`."""
    return affine.shift if bias is None else rw.aten.add(rw.aten.mul(bias, affine.scale), affine.shift)
