"""Symbolic sizes as nodes: `s53` becomes `sym_size(input_ids, 1)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sympy
import torch

from graphwright.ir.errors import PassError

if TYPE_CHECKING:
    from torch.fx import Node

    from graphwright.ir.edit import Edit

aten = torch.ops.aten


def size_node(size: int | torch.SymInt, edit: Edit) -> int | Node:
    """A number or node that computes `size` from the shapes of the inputs.

    Raises:
        PassError: The size depends on the data, not on the shape of an input.
    """
    if isinstance(size, int):
        return size
    return _build(size.node.expr, edit)


def _build(expr: Any, edit: Edit) -> Any:
    if expr.is_Integer:
        return int(expr)
    if expr.is_Symbol:
        return _symbol(expr, edit)
    if isinstance(expr, (sympy.Add, sympy.Mul)):
        from operator import add, mul

        combine = add if isinstance(expr, sympy.Add) else mul
        first, *rest = [_build(term, edit) for term in expr.args]
        for term in rest:
            both_numbers = isinstance(first, int) and isinstance(term, int)
            first = combine(first, term) if both_numbers else edit.call(combine, first, term)
        return first
    if type(expr).__name__ == "FloorDiv":
        from operator import floordiv

        return edit.call(floordiv, *(_build(term, edit) for term in expr.args))
    raise PassError(f"the size {expr} cannot be computed from the shapes of the inputs")


def _symbol(symbol: Any, edit: Edit) -> Node:
    for node in edit.graph.nodes:
        if node.op != "placeholder":
            continue
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            for i, size in enumerate(value.shape):
                if isinstance(size, torch.SymInt) and size.node.expr == symbol:
                    return edit.call(aten.sym_size.int, node, i)
    raise PassError(f"the size {symbol} is not the size of an input")
