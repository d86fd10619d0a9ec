"""Boolean attention masks that several layers share are made additive once, not by each attention of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from graphwright.ir.node import bound, is_call, value_of
from graphwright.ir.program import Program

attention = torch.ops.aten.scaled_dot_product_attention


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where `mask` is true, -inf elsewhere: what ATen's attention makes of a boolean mask.

    Args:
        mask: Any shape, boolean.
        dtype: Dtype of the queries.
    """
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask.logical_not(), float("-inf"))


def share_masks(program: Program) -> Program:
    """A copy of a functional `program` with shared boolean masks made additive; itself where there are none."""
    if not any(len(users) > 1 for users in _attentions(program).values()):
        return program
    copy = program.clone()
    for (mask, dtype), users in _attentions(copy).items():
        if len(users) > 1:
            with copy.graph.inserting_before(min(users)):
                made = copy.graph.call_function(additive_mask, (mask, dtype))
            made.meta = {**mask.meta, "val": value_of(mask).to(dtype)}
            for user in users:
                arguments = list(user.args)
                arguments[3] = made
                user.args = tuple(arguments)
    return copy


def _attentions(program: Program) -> dict[tuple[Node, torch.dtype], list[Node]]:
    """The attentions on a CPU with a boolean mask, by mask and dtype."""
    found: dict[tuple[Node, torch.dtype], list[Node]] = {}
    for node in program.graph.nodes:
        if is_call(node, attention) and len(node.args) > 3 and value_of(node).device.type == "cpu":
            mask, dtype = node.args[3], value_of(bound(node)["query"]).dtype
            if isinstance(mask, Node) and value_of(mask).dtype == torch.bool:
                found.setdefault((mask, dtype), []).append(node)
    return found
