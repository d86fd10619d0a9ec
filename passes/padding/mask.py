"""The mask of an attention taken apart: which keys are padding, and a bias that is the same for every sequence.

What is proved: the mask keeps a key exactly where a [batch, length] tensor is true, whatever the query is, and adds
terms that do not depend on the sequence (a position bias, a sliding window).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.node import bound, is_call, shape_of, value_of
from graphwright.passes.attention.indices import affine, move_axes
from graphwright.passes.attention.mask import kept, kept_by_bias
from graphwright.passes.attention.region import MASKED
from graphwright.passes.patterns.constants import as_number

aten = torch.ops.aten
State = Mapping[str, Any]


class Unproved(Exception):
    """A part of a mask is not understood.

    Args:
        reason: One sentence.
        culprit: The node to blame.
    """

    def __init__(self, reason: str, culprit: Node) -> None:
        super().__init__(reason)
        self.reason, self.culprit = reason, culprit


@dataclass(frozen=True)
class Term:
    """A tensor that is the same for every sequence: [1, heads or 1, queries, keys] or the end of it.

    Args:
        node: A bias to add, or a boolean mask.
        inverted: The boolean mask is false where a key is kept.
    """

    node: Node
    inverted: bool = False


@dataclass(frozen=True)
class Mask:
    """Keys are kept where every one of `sources` is true; `terms` are added.

    Args:
        sources: Boolean [batch, length] tensors by key.
        terms: What does not depend on the sequence.
        finite: Keys are hidden by a finite number, so a sequence without keys attends to everything alike; hidden by
            -inf or by a boolean mask, it attends to nothing.
    """

    sources: frozenset[Node] = frozenset()
    terms: tuple[Term, ...] = ()
    finite: bool = False

    def __and__(self, other: Mask) -> Mask:
        terms = tuple(dict.fromkeys(self.terms + other.terms))
        return Mask(self.sources | other.sources, terms, self.finite or other.finite)


def take_apart(mask: Node, state: State) -> Mask:
    """The parts of a mask of scores [batch, heads, queries, keys].

    Raises:
        Unproved: Names the part that is not understood.
    """
    return _boolean(mask, state) if value_of(mask).dtype == torch.bool else _additive(mask, state)


def _boolean(node: Any, state: State) -> Mask:
    if not isinstance(node, Node):
        raise Unproved("a mask is a number", node)
    if _keeps_all(kept(node, state)):
        return Mask()
    if is_call(node, aten.bitwise_and, aten.logical_and, aten.mul):
        return _boolean(node.args[0], state) & _boolean(node.args[1], state)
    if _is_shared(node):
        return Mask(terms=(Term(node),))
    return Mask(frozenset({_source(node, state)}))


def _additive(node: Any, state: State) -> Mask:
    if as_number(node, state) == 0:
        return Mask()
    if not isinstance(node, Node):
        raise Unproved(f"{node} is added to the scores", node)
    if _keeps_all(kept_by_bias(node, state)):
        return Mask()
    if _is_shared(node):
        return Mask(terms=(Term(node),))
    if is_call(node, aten.add):
        if bound(node)["alpha"] != 1:
            raise Unproved("a part of the mask is multiplied", node)
        return _additive(node.args[0], state) & _additive(node.args[1], state)
    if is_call(node, aten.where, aten.masked_fill):
        return _filled(node, state)
    if is_call(node, aten.mul):
        return _indicator(node, state)
    if is_call(node, aten.expand, aten.alias, aten.clone, aten.contiguous) and _same_rank(node):
        return _additive(node.args[0], state)
    raise Unproved("the mask depends on the sequence in a way that is not understood", node)


def _filled(node: Node, state: State) -> Mask:
    """A bias where a condition holds, and a very negative number elsewhere."""
    arguments = bound(node)
    if is_call(node, aten.masked_fill):
        condition, rest, fill = arguments["mask"], arguments["self"], arguments["value"]
        return _hidden(fill, state, node) & _opposite(condition, state) & _additive(rest, state)
    condition, chosen, other = arguments["condition"], arguments["self"], arguments["other"]
    if _is_masked(other, state):
        return _hidden(other, state, node) & _boolean(condition, state) & _additive(chosen, state)
    return _hidden(chosen, state, node) & _opposite(condition, state) & _additive(other, state)


def _hidden(fill: Any, state: State, node: Node) -> Mask:
    """What filling scores with a number says.

    Raises:
        Unproved: The number does not mask them.
    """
    if not _is_masked(fill, state):
        raise Unproved("scores are replaced by numbers that do not mask them", node)
    return Mask(finite=as_number(fill, state) != -math.inf)


def _opposite(condition: Any, state: State) -> Mask:
    """The mask that keeps where a boolean tensor is false."""
    if is_call(condition, aten.bitwise_not, aten.logical_not):
        return _boolean(condition.args[0], state)
    if is_call(condition, aten.bitwise_or, aten.logical_or):
        return _opposite(condition.args[0], state) & _opposite(condition.args[1], state)
    if isinstance(condition, Node) and _is_shared(condition):
        return Mask(terms=(Term(condition, inverted=True),))
    raise Unproved("where the mask hides a key is not understood", condition)


def _indicator(node: Node, state: State) -> Mask:
    """`(1 - keep) * very_negative` of a boolean `keep` cast to float."""
    indicator, factor = node.args[0], node.args[1]
    if not _is_masked(factor, state):
        indicator, factor = factor, indicator
    if _is_masked(factor, state):
        return _hidden(factor, state, node) & _indicated(indicator, state)
    raise Unproved("a product in the mask is not understood", node)


def _indicated(indicator: Any, state: State) -> Mask:
    """What a tensor of 0 (keep) and 1 (hide) keeps."""
    if is_call(indicator, aten.rsub) and as_number(indicator.args[1], state) == 1:
        return _boolean(_before_cast(indicator.args[0]), state)
    if is_call(indicator, aten.sub) and as_number(indicator.args[0], state) == 1:
        return _boolean(_before_cast(indicator.args[1]), state)
    return _opposite(_before_cast(indicator), state)


def _before_cast(node: Any) -> Node:
    if is_call(node, aten.to.dtype) and value_of(node.args[0]).dtype == torch.bool:
        return node.args[0]
    raise Unproved("the mask is computed from numbers that need not be 0 or 1", node)


def _is_masked(value: Any, state: State) -> bool:
    number = as_number(value, state)
    return number is not None and number <= MASKED


def _keeps_all(keep: Any) -> bool:
    return not keep.unknown and all(condition.never_negative() for condition in keep.conditions)


def _is_shared(node: Node) -> bool:
    """Whether a part of the mask has the same values for every sequence, by its shape."""
    shape = shape_of(node) or ()
    return len(shape) < 4 or (isinstance(shape[0], int) and shape[0] == 1)


def _same_rank(node: Node) -> bool:
    source = node.args[0]
    return isinstance(source, Node) and len(shape_of(source) or ()) == len(shape_of(node) or ())


def _source(node: Node, state: State) -> Node:
    """The [batch, length] tensor that decides about the keys.

    Raises:
        Unproved: It is laid out in another way.
    """
    axes = {axis: axis for axis in range(-len(shape_of(node) or ()), 0)}  # axis of the source -> axis of the mask
    source = node
    while len(shape_of(source) or ()) != 2:
        moved = _gathered(source, state) or move_axes(source)
        if moved is None or value_of(moved[0]).dtype != torch.bool:
            raise Unproved("which keys are padding is not understood", source)
        source, step = moved
        axes = {old: axes[new] for old, new in step.items() if new in axes}
    if axes.get(-2) != -4 or axes.get(-1) != -1:
        raise Unproved("the mask of padding is not over sequences and keys", node)
    return source


def _gathered(node: Node, state: State) -> tuple[Node, dict[int, int]] | None:
    """`x[i, j]` where each index is the position along one axis: its source, and old -> new axis."""
    if not is_call(node, aten.index.Tensor):
        return None
    arguments = bound(node)
    rank = len(shape_of(arguments["self"]) or ())
    if len(arguments["indices"]) != rank:
        return None
    axes: dict[int, int] = {}
    for old, index in zip(range(-rank, 0), arguments["indices"], strict=True):
        position = affine(index, state) if isinstance(index, Node) else None
        is_position = position is not None and len(position.coefficients) == 1 and position.coefficients[0][1] == 1
        if position is None or not is_position or position.constant != 0:
            return None
        axes[old] = position.coefficients[0][0]
    return arguments["self"], axes
