"""Symbolic sizes as nodes: `s53` becomes `sym_size(input_ids, 1)`."""

from __future__ import annotations

from operator import add, floordiv, mul
from typing import TYPE_CHECKING, Any

import sympy
import torch

from graphwright.ir.errors import PassError

if TYPE_CHECKING:
    from torch.fx import Graph, Node

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
        combine = add if isinstance(expr, sympy.Add) else mul
        first, *rest = [_build(term, edit) for term in expr.args]
        for term in rest:
            both_numbers = isinstance(first, int) and isinstance(term, int)
            first = combine(first, term) if both_numbers else edit.call(combine, first, term)
        return first
    if type(expr).__name__ == "FloorDiv":
        return edit.call(floordiv, *(_build(term, edit) for term in expr.args))
    raise PassError(f"the size {expr} cannot be computed from the shapes of the inputs")


def _symbol(symbol: Any, edit: Edit) -> Node:
    source = edit.rewriter.symbols.get(symbol)
    if source is None:
        raise PassError(f"the size {symbol} is not the size of an input")
    return edit.call(aten.sym_size.int, *source)


def symbol_sources(graph: Graph) -> dict[Any, tuple[Node, int]]:
    """The input and dimension whose size each symbol is."""
    sources: dict[Any, tuple[Node, int]] = {}
    for node in graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" else None
        if isinstance(value, torch.Tensor):
            for i, size in enumerate(value.shape):
                if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                    sources.setdefault(size.node.expr, (node, i))
    return sources
