"""What may help when a pattern does not match: mostly, that a node in the way is one that canonicalization removes."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.node import bound, is_call, op_name, tensor_type

_aten = torch.ops.aten
_DROPOUTS = (_aten.dropout, _aten.feature_dropout, _aten.alpha_dropout)
_COPIES = (_aten.contiguous, _aten.clone, _aten.alias, _aten.detach, _aten.lift_fresh_copy)
_CASTS = (_aten.to, _aten._to_copy, _aten.type_as, _aten.expand, _aten.view, _aten.reshape, _aten.slice)


def hint_for(culprit: Node, expected: tuple[Any, ...]) -> str | None:
    """A remedy for a miss, None if none is known.

    Args:
        culprit: The node to blame.
        expected: Call targets that the pattern would have taken there; none if it failed for another reason.
    """
    if not expected or culprit.op != "call_function":
        return None
    name = op_name(culprit)
    if is_no_op(culprit):
        return f"{name} does nothing here: run canonicalize first, it removes it"
    if _is_in_place_of(culprit, expected):
        return f"{name} is the in-place spelling: run canonicalize first, it makes the program functional"
    return None


def is_no_op(node: Node) -> bool:
    """Whether a call has no effect on values: evaluation dropout, casts and shapes that change nothing, asserts."""
    if is_call(node, *_DROPOUTS):
        arguments = bound(node)
        return not arguments["train"] or arguments["p"] == 0
    if is_call(node, *_COPIES) or "assert" in op_name(node):
        return True
    return is_call(node, *_CASTS) and _keeps_type(node)


def _keeps_type(node: Node) -> bool:
    source = node.args[0] if node.args else None
    if not isinstance(source, Node):
        return False
    before, after = tensor_type(source), tensor_type(node)
    return before is not None and after is not None and before.dtype == after.dtype and _equal(before, after)


def _equal(before: Any, after: Any) -> bool:
    """Same sizes by their text: comparing symbols themselves could add guards to them."""
    return [str(size) for size in before.shape] == [str(size) for size in after.shape]


def _is_in_place_of(node: Node, expected: tuple[Any, ...]) -> bool:
    packet = str(getattr(node.target, "overloadpacket", ""))
    return packet.endswith("_") and any(str(getattr(t, "overloadpacket", "")) == packet[:-1] for t in expected)
