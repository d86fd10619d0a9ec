"""Uses of a value for its shape alone: `expand_as(x, y)` becomes `expand(x, sizes)`, sizes taken from the inputs.

A value that is read only for its shape would otherwise seem to be used, and would be computed for nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.node import bound, is_call, shape_of, value_of
from graphwright.ir.sizes import is_computable, size_node
from graphwright.passes.local import RuleTable

aten = torch.ops.aten
TABLE = RuleTable()


def sizes_from_inputs(shape: Any, edit: Edit) -> list[Any] | None:
    """A shape as numbers and nodes; None where a size depends on data."""
    if not all(is_computable(size, edit.rewriter.symbols) for size in shape):
        return None
    return [size_node(size, edit) for size in shape]


@TABLE.local_rule(aten.expand_as, aten.reshape_as, aten.view_as)
def shape_of_another(node: Node, edit: Edit) -> Any:
    """`expand_as`, `reshape_as` and `view_as` read only the shape of their second argument."""
    sizes = sizes_from_inputs(shape_of(node) or (), edit)
    if sizes is None:
        return None
    op = aten.expand.default if is_call(node, aten.expand_as) else aten.reshape.default
    return edit.call(op, node.args[0], sizes)


@TABLE.local_rule(aten.sym_size.int)
def size_of_intermediate(node: Node, edit: Edit) -> Any:
    """The size of an intermediate value, from the sizes of the inputs."""
    source, value = node.args[0], value_of(node)
    if not isinstance(value, torch.SymInt) or not isinstance(source, Node) or source.op == "placeholder":
        return None
    sizes = sizes_from_inputs((value,), edit) if value.node.expr.is_Symbol else None
    return None if sizes is None else sizes[0]


@TABLE.local_rule(aten.ones_like, aten.zeros_like, aten.full_like)
def fill_like_another(node: Node, edit: Edit) -> Any:
    """`full_like(x, v)` reads only the shape of x."""
    value = value_of(node)
    fill: Any = 1 if is_call(node, aten.ones_like) else 0
    if is_call(node, aten.full_like):
        fill = bound(node)["fill_value"]
    sizes = sizes_from_inputs(value.shape, edit) if isinstance(fill, (bool, int, float)) else None
    if sizes is None:
        return None
    return edit.call(aten.full.default, sizes, fill, dtype=value.dtype, device=value.device)
