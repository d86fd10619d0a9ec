"""How models spell the rotation of feature pairs, as expressions."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.infer import same_shape, same_size
from graphwright.ir.node import bound, is_call, shape_of
from graphwright.passes.patterns import Match, any_of, aten, where
from graphwright.passes.patterns.expressions import Expr

aten_ = torch.ops.aten


def first_half(x: Any) -> Expr:
    """The first half of the last axis, sliced, chunked or split."""
    return where(_part(x, 0), lambda node: _half(node) == 0, "is not the first half of the last axis")


def second_half(x: Any) -> Expr:
    """The second half of the last axis."""
    return where(_part(x, 1), lambda node: _half(node) == 1, "is not the second half of the last axis")


def _part(x: Any, index: int) -> Expr:
    return any_of(
        aten.slice(x, -1, ..., ..., 1),
        aten.chunk(x, 2, -1)[index],
        aten.split.Tensor(x, ..., -1)[index],
        aten.split_with_sizes(x, ..., -1)[index],
    )


def _half(node: Any) -> int | None:
    """Which half of the last axis a slice, or an item of a chunk or split, is; None if it is no half."""
    if is_call(node, aten_.slice):
        source, start = bound(node)["self"], bound(node)["start"] or 0
    elif is_call(node, operator.getitem) and node.args[0].args:
        source, start = node.args[0].args[0], None
    else:
        return None
    whole, part = ((shape_of(value) or (None,))[-1] if isinstance(value, Node) else None for value in (source, node))
    if not isinstance(whole, int) or not isinstance(part, int) or 2 * part != whole:
        return None
    return node.args[1] if start is None else {0: 0, part: 1, -part: 1}.get(start)


def _every_other(x: Any, start: int) -> Expr:
    return aten.slice(x, -1, start, ..., 2) if start else aten.slice(x, -1, any_of(0, None), ..., 2)


def turned_halves(x: Any) -> Expr:
    """`cat([-second half, first half])`."""
    return aten.cat([aten.neg(second_half(x)), first_half(x)], -1)


def turned_pairs(x: Any) -> Expr:
    """Every pair (a, b) as (-b, a)."""
    pairs = aten.stack([aten.neg(_every_other(x, 1)), _every_other(x, 0)], -1)
    return any_of(aten.flatten(pairs, -2), aten.reshape(pairs, ...), aten.reshape_as(pairs, ...))


def rotated(x: Any, cos: Any, sin: Any) -> Expr:
    """`x * cos + turned(x) * sin`; the tag `style` says how pairs are made, `m.turned` is the turned tensor."""
    turned = any_of(tag="style", halves=turned_halves(x), interleaved=turned_pairs(x)).named("turned")
    return aten.add(aten.mul(x, cos), aten.mul(turned, sin))


def check_angles(m: Match, x: Any, result: Node) -> None:
    """Cosines and sines have one value per feature and do not enlarge the tensor."""
    width = x.shape[-1]
    for angles in (m.cos, m.sin):
        m.require(same_size(angles.shape[-1], width), f"{angles} must have the width of {x}, {width}", at=angles)
    m.require(same_shape(x.shape, m.turned.shape), f"{m.turned} is not a rotation of {x}", at=m.turned)
    m.require(same_shape(x.shape, shape_of(result) or ()), f"the angles are larger than {x}", at=m.cos)
