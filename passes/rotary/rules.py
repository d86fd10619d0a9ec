"""Rotary embeddings made of real numbers."""

from __future__ import annotations

from typing import Any

from graphwright.ir.edit import Edit
from graphwright.ir.infer import same_size
from graphwright.ir.node import bound
from graphwright.passes.patterns import Match, Rule, aten
from graphwright.passes.rotary.spelling import check_angles, first_half, rotated, second_half


class PartialRotary(Rule):
    """cat([rotate(x[..., :n]), x[..., n:]]) -> rotary_embedding(x)."""

    requires = frozenset({"canonical"})

    def pattern(self, x: Any, cos: Any, sin: Any, part: Any, rest: Any) -> Any:
        """The first features are rotated, the others pass through."""
        head = aten.slice(x, -1, ..., ..., 1).named("part")
        tail = aten.slice(x, -1, ..., ..., 1).named("rest")
        return aten.cat([rotated(head, cos, sin).named("result"), tail], -1)

    def check(self, m: Match) -> None:
        """The parts are the whole, in order."""
        start, middle = bound(m.part.node)["start"], bound(m.rest.node)["start"]
        m.require(start in (0, None), f"{m.part} does not start at the first feature", at=m.part)
        m.require(middle == m.part.shape[-1], f"{m.rest} does not start where {m.part} ends", at=m.rest)
        whole = same_size(m.part.shape[-1] + m.rest.shape[-1], m.x.shape[-1])
        m.require(whole, f"{m.rest} does not reach the last feature", at=m.rest)
        check_angles(m, m.part, m.result.node)

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """The whole tensor, with narrower angles."""
        return _emit(m, rw)


class Rotary(Rule):
    """x * cos + rotate(x) * sin -> rotary_embedding(x, cos, sin)."""

    requires = frozenset({"canonical"})

    def pattern(self, x: Any, cos: Any, sin: Any) -> Any:
        """Halves (Llama) or neighbouring features (GPT-J, Cohere) are the pairs."""
        return rotated(x, cos, sin)

    def check(self, m: Match) -> None:
        """One angle per feature."""
        check_angles(m, m.x, m.root)

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """The same roundings: the op's reference is what was matched."""
        return _emit(m, rw)


class HalfAngleRotary(Rule):
    """cat([a * cos - b * sin, b * cos + a * sin]) -> rotary_embedding(x), with x = cat([a, b])."""

    requires = frozenset({"canonical"})

    def pattern(self, x: Any, cos: Any, sin: Any) -> Any:
        """Angles for one half only (gpt-oss)."""
        a, b = first_half(x), second_half(x)
        return aten.cat([aten.sub(a * cos, b * sin), aten.add(b * cos, a * sin)], -1)

    def check(self, m: Match) -> None:
        """One angle per pair."""
        for angles in (m.cos, m.sin):
            m.require(
                same_size(2 * angles.shape[-1], m.x.shape[-1]), f"{angles} is not half as wide as {m.x}", at=angles
            )
        m.require(len(m.cos.shape) <= m.x.rank, f"the angles are larger than {m.x}", at=m.cos)

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """The angles twice."""
        cos, sin = (rw.aten.cat([angles, angles], -1) for angles in (m.cos, m.sin))
        return rw.ops("graphwright").rotary_embedding(m.x, cos, sin)


def _emit(m: Match, rw: Edit) -> Any:
    options = {"interleaved": True} if m.tag("style") == "interleaved" else {}
    return rw.ops("graphwright").rotary_embedding(m.x, m.cos, m.sin, **options)
