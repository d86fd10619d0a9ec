"""Symbolic sizes as nodes: `s53` becomes `sym_size(input_ids, 1)`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import torch

from graphwright.ir.errors import PassError

if TYPE_CHECKING:
    from torch.fx import Graph, Node

    from graphwright.ir.edit import Edit

aten = torch.ops.aten


class SizeError(PassError):
    """A symbolic size cannot be computed from the shapes of the inputs."""


def size_node(size: int | torch.SymInt, edit: Edit) -> int | Node:
    """A number or node that computes `size` from the shapes of the inputs.

    Raises:
        SizeError: The size depends on the data, not on the shape of an input.
    """
    if isinstance(size, int):
        return size
    return _build(size.node.expr, edit)


def is_computable(size: int | torch.SymInt, symbols: Collection[Any]) -> bool:
    """Whether `size_node` can compute a size, given the symbols that are sizes of inputs."""
    return isinstance(size, int) or _is_computable(size.node.expr, symbols)


def _is_computable(expr: Any, symbols: Collection[Any]) -> bool:
    if expr.is_Integer or expr.is_Symbol:
        return bool(expr.is_Integer) or expr in symbols
    return type(expr).__name__ in _FUNCTIONS and all(_is_computable(term, symbols) for term in expr.args)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Mul": operator.mul,
    "FloorDiv": operator.floordiv,
    "Pow": operator.pow,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
    "Min": torch.sym_min,
    "Max": torch.sym_max,
}


def _build(expr: Any, edit: Edit) -> Any:
    """Numbers and nodes for an expression; numbers are combined at once."""
    if expr.is_Integer:
        return int(expr)
    if expr.is_Symbol:
        return _symbol(expr, edit)
    function = _FUNCTIONS.get(type(expr).__name__)
    if function is None:
        raise SizeError(f"the size {expr} cannot be computed from the shapes of the inputs")
    first, *rest = [_build(term, edit) for term in expr.args]
    for term in rest:
        both_numbers = isinstance(first, int) and isinstance(term, int)
        first = function(first, term) if both_numbers else edit.call(function, first, term)
    return first


def _symbol(symbol: Any, edit: Edit) -> Node:
    source = edit.rewriter.symbols.get(symbol)
    if source is None:
        raise SizeError(f"the size {symbol} is not the size of an input")
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
