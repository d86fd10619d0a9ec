"""What the validators of several targets ask about a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.node import argument, bound, shape_of, value_of
from graphwright.lowering.emitters import EmitterTable
from graphwright.lowering.support import Support

SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


def emittable(table: EmitterTable, node: Node, why_not: Callable[[Any], str]) -> Support:
    """Whether a table has an emitter for a call that can express the arguments and the sizes.

    Args:
        table: The target's emitters.
        node: The call.
        why_not: Why the target cannot compute a symbolic number, `""` if it can.
    """
    if node.target not in table.emitters and isinstance(value_of(node), (*SYMBOLIC, int, float, bool)):
        return Support.yes()  # arithmetic on sizes is emitted where a size is used
    answer = table.find(node)[1]
    if not answer.ok:
        return answer
    for source in node.all_input_nodes:
        value = value_of(source)
        reason = why_not(value) if isinstance(value, (torch.SymInt, torch.SymFloat)) else ""
        if reason:
            return Support.no(reason, remedy="give the dimension a fixed size")
    return answer


def plain_attention(node: Node) -> Support:
    """Whether `scaled_dot_product_attention` has no dropout, and rank 3 or 4."""
    arguments = bound(node)
    if arguments["dropout_p"]:
        return Support.no("attention with dropout", remedy="capture the model after model.eval()")
    rank = len(shape_of(arguments["query"]) or ())
    if rank not in (3, 4):
        return Support.no(f"attention of rank {rank}", remedy="reshape query, key and value to rank 4")
    return Support.yes()


def integer_indices(node: Node) -> Support:
    """Whether all index tensors are integers; a boolean one selects a number of entries that depends on the data."""
    for index in argument(node, "indices"):
        if isinstance(index, Node) and value_of(index).dtype == torch.bool:
            return Support.no("indexing by a boolean mask", remedy="multiply by the mask, or use torch.where")
    return Support.yes()
