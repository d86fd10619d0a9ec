"""Folded constants that are equal: layers that each hold their own copy of a table read one."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter


def merge_equal_constants(program: Program, rewriter: Rewriter, *, keep: Collection[str]) -> int:
    """Read each folded constant from the first that equals it, and drop the others from the state.

    Args:
        program: The program.
        rewriter: Its rewriter.
        keep: State of the model itself, which may be loaded anew and so is never merged.

    Returns:
        The number of constants dropped.
    """
    groups: dict[Any, list[Node]] = {}
    merged = 0
    for node in [node for node in program.graph.nodes if node.op == "get_attr" and node.target not in keep]:
        value = program.state[str(node.target)]
        if not isinstance(value, torch.Tensor) or isinstance(value, torch.nn.Parameter) or value.is_meta:
            continue
        group = groups.setdefault((value.dtype, tuple(value.shape), value.device), [])
        earlier = next((one for one in group if torch.equal(program.state[str(one.target)], value)), None)
        if earlier is None:
            group.append(node)
        elif earlier.target != node.target:
            with rewriter.site("MergeConstants", (node,)) as edit:
                edit.replace(node, earlier)
                edit.erase(node)
            _drop_unread(program, str(node.target))
            merged += 1
    return merged


def _drop_unread(program: Program, name: str) -> None:
    if not program.graph.find_nodes(op="get_attr", target=name):
        del program.state[name]
