"""Whole-graph clean-up: dead code, asserts, duplicates."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.infer import type_difference
from graphwright.ir.node import module_path, value_of
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter, is_needed
from graphwright.passes.canonicalize.noise import is_assert


def remove_dead(program: Program, rewriter: Rewriter) -> int:
    """Remove asserts and what nobody uses; one record per module."""
    dead: dict[str, list[Node]] = {}
    doomed: set[Node] = set()
    for node in reversed(program.graph.nodes):
        unused = all(user in doomed for user in node.users)
        if unused and (is_assert(node) or not is_needed(node)) and node.op not in ("placeholder", "output"):
            doomed.add(node)
            dead.setdefault(module_path(node), []).append(node)
    with rewriter.site("DeadCode", ()) as edit:
        for nodes in dead.values():
            for node in nodes:
                edit.erase(node)
    return len(doomed)


def merge_duplicates(program: Program, rewriter: Rewriter, *, skip: Collection[Node] = ()) -> int:
    """Replace a call by an earlier one of the same op on the same values (common subexpressions).

    Nodes in `skip` are left alone.
    """
    first: dict[Hashable, Node] = {}
    merged = 0
    for node in list(program.graph.nodes):
        key = None if node in skip else _key(node)
        if key is None:
            continue
        earlier = first.setdefault(key, node)
        # Torch names each number that is read from data anew, so that their types differ.
        if earlier is not node and type_difference(value_of(node), value_of(earlier)) is None:
            with rewriter.site("MergeDuplicates", (node,)) as edit:
                edit.replace(node, earlier)
                edit.erase(node)
            merged += 1
    return merged


def _key(node: Node) -> Hashable | None:
    """Equal for calls that compute the same value; None for what must not be merged."""
    if node.op == "get_attr":
        return ("get_attr", node.target)
    if node.op != "call_function" or node.is_impure() or _is_random(node):
        return None
    try:
        key = (node.target, _frozen(node.args), _frozen(node.kwargs))
        hash(key)
    except TypeError:
        return None
    return key


def _is_random(node: Node) -> bool:
    tags = getattr(node.target, "tags", ())
    return torch.Tag.nondeterministic_seeded in tags or isinstance(node.target, torch._ops.HigherOrderOperator)


def _frozen(value: Any) -> Hashable:
    """Arguments as a hashable value; 1, 1.0 and True stay apart."""
    if isinstance(value, (tuple, list)):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return tuple(sorted((key, _frozen(item)) for key, item in value.items()))
    if isinstance(value, slice):
        return ("slice", _frozen((value.start, value.stop, value.step)))
    return value if isinstance(value, Node) else (type(value).__name__, value)
