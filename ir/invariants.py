"""Invariants: named facts about a program that passes require, establish or break.

| name | what holds |
|---|---|
| `functional` | no op writes to its arguments, except to inputs and state, where the caller can see it |
| `inference` | nothing behaves as in training: no active dropout, no batch statistics |
| `canonical` | `functional`, and of several spellings of one computation only the canonical one is left |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.node import OpOverload, bound, is_call
from graphwright.ir.views import view_root

aten = torch.ops.aten

NAMES = frozenset({"functional", "inference", "canonical"})

_TRAINING_OPS = (
    aten.dropout, aten.feature_dropout, aten.alpha_dropout, aten.feature_alpha_dropout, aten.native_dropout,
    aten.batch_norm, aten.scaled_dot_product_attention,
)  # fmt: skip
_NOISE = (aten._assert_tensor_metadata, aten._assert_async, aten.alias, aten.lift_fresh_copy, aten.detach_)


def is_mutating(node: Node) -> bool:
    """Whether the call writes to one of its arguments."""
    target: Any = node.target
    return isinstance(target, OpOverload) and target._schema.is_mutable


def written_root(node: Node) -> Node | None:
    """The input or state that an in-place op writes to, possibly through views; None for any other op."""
    if not is_mutating(node) or not node.args or not isinstance(node.args[0], Node):
        return None
    root = view_root(node.args[0])
    return root if root.op in ("placeholder", "get_attr") else None


def _functional(node: Node) -> str | None:
    hidden_write = is_mutating(node) and written_root(node) is None
    return f"{node.target} writes to its argument" if hidden_write else None


def _inference(node: Node) -> str | None:
    if not is_call(node, *_TRAINING_OPS):
        return None
    arguments = bound(node)
    drops = arguments.get("dropout_p") or (arguments.get("train") and arguments.get("p"))
    return f"{node.target} is in training mode" if drops or arguments.get("training") else None


def _canonical(node: Node) -> str | None:
    return f"{node.target} should have been removed" if is_call(node, *_NOISE) else None


CHECKS: dict[str, Callable[[Node], str | None]] = {
    "functional": _functional,
    "inference": _inference,
    "canonical": _canonical,
}
