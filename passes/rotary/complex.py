"""Rotary embeddings written as products of complex numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.infer import same_shape, same_size
from graphwright.ir.node import is_call, value_of
from graphwright.ir.ops import is_relayout
from graphwright.passes.patterns import Match, Rule, any_of, aten

_aten = torch.ops.aten


class ComplexRotary(Rule):
    """as_real(as_complex(x) * polar(1, angle)) -> rotary_embedding(x, cos(angle), sin(angle), interleaved=True)."""

    requires = frozenset({"canonical"})

    def pattern(self, x: Any, angles: Any) -> Any:
        """Neighbouring features are real and imaginary part."""
        pairs = aten.view_as_complex(aten.reshape(x, ...).named("pairs")).named("complex")
        real = aten.view_as_real(aten.mul(pairs, angles))
        return any_of(aten.flatten(real, -2), aten.reshape(real, ...))

    def check(self, m: Match) -> None:
        """Each pair is two neighbouring features; what was split into heads together with the pairs stays split."""
        wide = _paired(m)
        m.require(same_shape(m.root.meta["val"].shape, wide), f"the result is not shaped as {m.pairs} is", at=m.pairs)
        m.require(
            same_size(m.angles.shape[-1], m.pairs.shape[-2]), f"{m.angles} has not one value per pair", at=m.angles
        )

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """Real arithmetic: within a rounding of the complex product."""
        cos, sin = (rw.aten.repeat_interleave(part, 2, -1) for part in real_and_imaginary(m.angles.node, rw))
        whole = same_shape(m.x.shape, _paired(m))
        x = m.x if whole else rw.aten.flatten.using_ints(m.pairs, -2, -1)
        return rw.ops("graphwright").rotary_embedding(x, cos, sin, interleaved=True)


def _paired(m: Match) -> tuple[Any, ...]:
    """The shape of the pairs' features side by side."""
    return (*m.pairs.shape[:-2], 2 * m.pairs.shape[-2])


def real_and_imaginary(node: Node, rw: Edit) -> tuple[Node, Node]:
    """Both parts of a complex tensor, computed without complex numbers where it is a view of `polar`."""
    if is_call(node, _aten.polar):
        size, angle = node.args
        parts = rw.call(_aten.cos.default, angle), rw.call(_aten.sin.default, angle)
        return parts if _is_one(size) else (rw.aten.mul(size, parts[0]), rw.aten.mul(size, parts[1]))
    if is_relayout(node) or is_call(node, _aten.slice):
        source: Any = node.args[0]
        if isinstance(source, Node) and value_of(source).dtype.is_complex:
            real, imaginary = real_and_imaginary(source, rw)
            return rw.call(node.target, real, *node.args[1:]), rw.call(node.target, imaginary, *node.args[1:])
    return rw.aten.real(node), rw.aten.imag(node)


def _is_one(size: Any) -> bool:
    return is_call(size, _aten.ones_like, _aten.ones) or (
        is_call(size, _aten.full, _aten.full_like) and size.args[1] == 1
    )
