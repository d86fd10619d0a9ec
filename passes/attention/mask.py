"""What a mask is proved to be: all-true, causal, or anything else.

A mask is followed through the ops that made it. Comparisons of affine functions of the indices are understood exactly;
whatever else decides about a position is *unknown*, and a mask with an unknown part is kept as it is. Nothing is
guessed from shapes, names or example values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.fx import Node

from graphwright.ir.node import bound, is_call, value_of
from graphwright.passes.attention.indices import Affine, affine, move_axes
from graphwright.passes.patterns.constants import as_number

aten = torch.ops.aten
State = Mapping[str, Any]
Verdict = Literal["all", "causal", "other"]

CAUSAL = Affine(((-2, 1), (-1, -1)))
_MASKED = -1e4


@dataclass(frozen=True)
class Keep:
    """Positions that are kept: where all conditions `function >= 0` hold, and `unknown` does not object."""

    conditions: frozenset[Affine] = frozenset()
    unknown: bool = False

    def __and__(self, other: Keep) -> Keep:
        return Keep(self.conditions | other.conditions, self.unknown or other.unknown)

    def negated(self) -> Keep:
        """The opposite positions, where that is expressible as a conjunction."""
        if self.unknown or len(self.conditions) != 1:
            return UNKNOWN
        (condition,) = self.conditions
        minus_one = Affine((), -1)
        return Keep(frozenset({condition.times(-1) + minus_one}))


UNKNOWN = Keep(unknown=True)
EVERYWHERE = Keep()


def judge(mask: Node, state: State) -> Verdict:
    """What a mask is, for every size: `all` (keeps everything), `causal` (key index <= query index), or `other`.

    Args:
        mask: A boolean mask (true: keep) or an additive one (0: keep, very negative: drop).
        state: Tensors of the program.
    """
    is_bool = value_of(mask).dtype == torch.bool
    keep = kept(mask, state) if is_bool else kept_by_bias(mask, state)
    if keep.unknown:
        return "other"
    conditions = {condition for condition in keep.conditions if not condition.never_negative()}
    if not conditions:
        return "all"
    return "causal" if conditions == {CAUSAL} else "other"


_CONTENT = (aten.matmul, aten.bmm, aten.baddbmm, aten.linear, aten.addmm, aten.embedding, aten.layer_norm)


def may_mask(bias: Node, state: State) -> bool:
    """Whether an additive term may hold very negative numbers on purpose: one occurs where it is made.

    What comes out of a product, an embedding or a norm is content, not a mask.
    """
    seen, stack = {bias}, [bias]
    while stack:
        node = stack.pop()
        numbers = [as_number(value, state) for value in bound(node).values()] if node.op == "call_function" else []
        if node.op == "placeholder" or any(number is not None and number <= _MASKED for number in numbers):
            return True
        if not is_call(node, *_CONTENT):
            fresh = [source for source in node.all_input_nodes if source not in seen]
            seen.update(fresh)
            stack.extend(fresh)
    return False


# ---- boolean masks ---------------------------------------------------------------------------


def kept(node: Any, state: State) -> Keep:
    """Where a boolean tensor is true."""
    if not isinstance(node, Node):
        return EVERYWHERE if node is True else UNKNOWN
    if is_call(node, aten.bitwise_and, aten.logical_and, aten.mul):
        return kept(node.args[0], state) & kept(node.args[1], state)
    if is_call(node, aten.bitwise_not, aten.logical_not):
        return kept(node.args[0], state).negated()
    if is_call(node, aten.le, aten.lt, aten.ge, aten.gt):
        return _comparison(node, state)
    if is_call(node, aten.eq, aten.ne):
        truth = affine(node, state)
        return UNKNOWN if truth is None or truth.is_zero() else EVERYWHERE
    if is_call(node, aten.full, aten.ones):
        return EVERYWHERE if is_call(node, aten.ones) or bound(node)["fill_value"] in (True, 1) else UNKNOWN
    if is_call(node, aten.tril, aten.triu):
        return kept(node.args[0], state) & _triangle(node)
    if node.op == "get_attr":
        return _stored(state.get(str(node.target)))
    return _through_axes(node, state)


def _through_axes(node: Node, state: State) -> Keep:
    """Conditions carried through ops that only move axes, or cut the start of one."""
    if is_call(node, aten.slice.Tensor):
        arguments = bound(node)
        whole = arguments["start"] in (None, 0) and arguments["step"] == 1
        return kept(arguments["self"], state) if whole else UNKNOWN
    moved = move_axes(node)
    if moved is None:
        return UNKNOWN
    keep = kept(moved[0], state)
    return keep if keep.unknown else Keep(frozenset(c.moved(moved[1]) for c in keep.conditions))


def _comparison(node: Node, state: State) -> Keep:
    a, b = affine(node.args[0], state), affine(node.args[1], state)
    if a is None or b is None:
        return UNKNOWN
    difference = b - a if is_call(node, aten.le, aten.lt) else a - b
    if is_call(node, aten.lt, aten.gt):
        difference = difference + Affine((), -1)
    return Keep(frozenset({difference}))


def _triangle(node: Node) -> Keep:
    """`tril(x, d)` keeps key <= query + d, `triu(x, d)` keeps key >= query + d."""
    diagonal = bound(node)["diagonal"]
    if not isinstance(diagonal, int):
        return UNKNOWN
    lower = CAUSAL + Affine((), diagonal)
    return Keep(frozenset({lower if is_call(node, aten.tril) else lower.times(-1)}))


def _stored(tensor: Any) -> Keep:
    """A stored constant that is all true, or a lower triangle."""
    if not isinstance(tensor, torch.Tensor) or tensor.is_meta or isinstance(tensor, torch.nn.Parameter):
        return UNKNOWN
    if tensor.dtype not in (torch.bool, torch.uint8) or tensor.numel() > 1 << 24:
        return UNKNOWN
    if bool(tensor.all()):
        return EVERYWHERE
    is_square = tensor.dim() >= 2 and tensor.shape[-1] == tensor.shape[-2] and tensor[..., 0, 0].numel() == 1
    matrix = tensor.reshape(tensor.shape[-2:]).bool() if is_square else tensor
    return Keep(frozenset({CAUSAL})) if is_square and torch.equal(matrix, torch.ones_like(matrix).tril()) else UNKNOWN


# ---- additive masks --------------------------------------------------------------------------


def kept_by_bias(node: Any, state: State) -> Keep:
    """Where an additive mask is 0 (elsewhere it is very negative); unknown if it holds anything else."""
    number = as_number(node, state)
    if number is not None:
        return EVERYWHERE if number == 0 else UNKNOWN
    if not isinstance(node, Node):
        return UNKNOWN
    if is_call(node, aten.where):
        return _where(node, state)
    if is_call(node, aten.masked_fill):
        arguments = bound(node)
        masked = _is_masked(arguments["value"], state)
        return kept_by_bias(arguments["self"], state) & kept(arguments["mask"], state).negated() if masked else UNKNOWN
    if is_call(node, aten.add):
        return kept_by_bias(node.args[0], state) & kept_by_bias(node.args[1], state)
    if is_call(node, aten.mul):
        return _indicator_times_number(node, state)
    if is_call(node, aten.zeros):
        return EVERYWHERE
    if is_call(node, aten.triu) and _is_masked_everywhere(node.args[0], state):
        return _triangle(node).negated()
    return _bias_through_axes(node, state)


def _is_masked(value: Any, state: State) -> bool:
    number = as_number(value, state)
    return number is not None and number <= _MASKED


def _is_masked_everywhere(node: Any, state: State) -> bool:
    return is_call(node, aten.full) and _is_masked(bound(node)["fill_value"], state)


def _where(node: Node, state: State) -> Keep:
    arguments = bound(node)
    keep = kept(arguments["condition"], state)
    if _is_masked(arguments["other"], state):
        return keep & kept_by_bias(arguments["self"], state)
    if _is_masked(arguments["self"], state):
        return keep.negated() & kept_by_bias(arguments["other"], state)
    return UNKNOWN


def _indicator_times_number(node: Node, state: State) -> Keep:
    """`(1 - keep) * very_negative`, and `drop * very_negative`."""
    indicator, factor = node.args[0], node.args[1]
    if not _is_masked(factor, state):
        indicator, factor = factor, indicator
    return _where_zero(indicator, state) if _is_masked(factor, state) else UNKNOWN


def _where_zero(node: Any, state: State) -> Keep:
    """Where a 0/1 float tensor is 0."""
    if is_call(node, aten.rsub) and as_number(node.args[1], state) == 1:
        return _where_one(node.args[0], state)
    if is_call(node, aten.sub) and as_number(node.args[0], state) == 1:
        return _where_one(node.args[1], state)
    return _where_one(node, state).negated()


def _where_one(node: Any, state: State) -> Keep:
    """Where a boolean tensor cast to float is 1."""
    if is_call(node, aten.to.dtype) and value_of(node.args[0]).dtype == torch.bool:
        return kept(node.args[0], state)
    return UNKNOWN


def _bias_through_axes(node: Node, state: State) -> Keep:
    if is_call(node, aten.slice.Tensor):
        arguments = bound(node)
        whole = arguments["start"] in (None, 0) and arguments["step"] == 1
        return kept_by_bias(arguments["self"], state) if whole else UNKNOWN
    moved = move_axes(node)
    if moved is None:
        return UNKNOWN
    keep = kept_by_bias(moved[0], state)
    return keep if keep.unknown else Keep(frozenset(c.moved(moved[1]) for c in keep.conditions))
