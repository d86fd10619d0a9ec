"""The `merge-linears` pass: sibling linears on one input become one linear and a split.

The merged weight is an expression in the graph (`cat` of the old weights), which targets fold when they lower the
program. The state, its names and its sharing stay as they are, so training, `state_dict` and undo are exact.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.invariants import written_root
from graphwright.ir.node import bound, is_call, shape_of, value_of
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.ir.views import view_root
from graphwright.passes.base import Pass

aten = torch.ops.aten


@dataclass(frozen=True)
class MergeLinears(Pass):
    """Merge linears that read the same value (query, key and value projections; gate and up projections).

    Args:
        least: Smallest number of siblings to merge.
    """

    name = "merge-linears"
    requires = frozenset({"functional"})

    least: int = 2

    def apply(self, program: Program, rewriter: Rewriter) -> None:
        """Merge every group of siblings."""
        for group in _groups(program):
            if len(group) >= max(self.least, 2):
                with rewriter.site("MergeLinears", group) as edit:
                    _merge(group, edit)


def _groups(program: Program) -> Iterable[list[Node]]:
    """Linears by input, dtype and presence of a bias, in graph order; each weight at most once per group."""
    groups: dict[Any, list[Node]] = {}
    written = {root for node in program.graph.nodes if (root := written_root(node)) is not None}
    for node in program.graph.nodes:
        if is_call(node, aten.linear) and _is_mergeable(node, written):
            arguments = bound(node)
            key = (arguments["input"], arguments["bias"] is None, value_of(arguments["weight"]).dtype)
            members = groups.setdefault(key, [])
            ready = not members or all(source < members[0] for source in node.all_input_nodes)
            if ready and all(bound(member)["weight"] is not arguments["weight"] for member in members):
                members.append(node)
    return groups.values()


def _is_mergeable(node: Node, written: Collection[Node]) -> bool:
    """Whether a linear has a user, a weight of static size, and reads no memory that the program writes to."""
    weight = bound(node)["weight"]
    sizes = shape_of(weight) or ()
    has_weight = isinstance(weight, Node) and len(sizes) == 2 and isinstance(sizes[0], int)
    steady = not written or all(view_root(source) not in written for source in node.all_input_nodes)
    return has_weight and steady and bool(node.users)


def _merge(group: list[Node], edit: Edit) -> None:
    arguments = [bound(node) for node in group]
    edit.insert_before(group[0])
    weight = edit.call(aten.cat.default, [a["weight"] for a in arguments], 0)
    biased = arguments[0]["bias"] is not None
    bias = [edit.call(aten.cat.default, [a["bias"] for a in arguments], 0)] if biased else []
    merged = edit.call(aten.linear.default, arguments[0]["input"], weight, *bias)
    sizes = [(shape_of(a["weight"]) or ())[0] for a in arguments]
    parts = edit.call(aten.split_with_sizes.default, merged, sizes, len(shape_of(merged) or ()) - 1)
    for i, node in enumerate(group):
        edit.replace(node, edit.call(operator.getitem, parts, i))
        edit.erase(node)
