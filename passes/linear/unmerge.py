"""The `unmerge-linears` pass: the exact inverse of `merge-linears`."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.node import bound, is_call, shape_of
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.passes.base import Pass

aten = torch.ops.aten


@dataclass(frozen=True)
class UnmergeLinears(Pass):
    """Split linears whose weight is a `cat` and whose result is split at the same places."""

    name = "unmerge-linears"
    requires = frozenset({"functional"})

    def apply(self, program: Program, rewriter: Rewriter) -> None:
        """Split every merged linear."""
        for split in [node for node in program.graph.nodes if is_call(node, aten.split_with_sizes)]:
            parts = _merged_parts(split)
            if parts is not None:
                linear, weights, biases = parts
                with rewriter.site("UnmergeLinears", (linear, split, *split.users)) as edit:
                    _unmerge(linear, split, weights, biases, edit)


def _merged_parts(split: Node) -> tuple[Node, list[Node], list[Any]] | None:
    """The linear and the weights and biases that were merged, if a split undoes exactly that."""
    linear = split.args[0]
    if not isinstance(linear, Node) or not is_call(linear, aten.linear) or len(linear.users) != 1:
        return None
    arguments = bound(linear)
    weights = _joined(arguments["weight"])
    biases = [None] * len(weights) if arguments["bias"] is None else _joined(arguments["bias"])
    sizes = [(shape_of(weight) or (None,))[0] for weight in weights]
    last = bound(split)["dim"] in (-1, len(shape_of(linear) or ()) - 1)
    only_items = all(is_call(user, operator.getitem) for user in split.users)
    matches = last and only_items and len(biases) == len(weights) and sizes == list(bound(split)["split_sizes"])
    return (linear, weights, biases) if weights and matches else None


def _joined(node: Node) -> list[Any]:
    """The operands of a `cat` along dim 0, nothing for any other node."""
    if not is_call(node, aten.cat) or bound(node)["dim"] != 0:
        return []
    return list(bound(node)["tensors"])


def _unmerge(linear: Node, split: Node, weights: list[Node], biases: list[Any], edit: Edit) -> None:
    edit.insert_before(linear)
    sources = [bound(linear)["weight"], bound(linear)["bias"]]
    for item in sorted(split.users):
        index: Any = item.args[1]
        bias = [] if biases[index] is None else [biases[index]]
        edit.replace(item, edit.call(aten.linear.default, bound(linear)["input"], weights[index], *bias))
        edit.erase(item)
    for node in (split, linear, *sources):
        if isinstance(node, Node) and all(user in edit.doomed for user in node.users):
            edit.erase(node)
