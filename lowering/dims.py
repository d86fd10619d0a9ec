"""Sizes as text: the name of a dimension, or an expression of names such as `past_sequence + sequence`."""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch

_OPERATORS: dict[type[ast.AST], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def expression(size: int | torch.SymInt) -> Any:
    """The sympy expression of a size."""
    import sympy

    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(int(size))


def dim_text(size: int | torch.SymInt, names: Mapping[str, str]) -> int | str:
    """A size as an int, the name of its dimension, or an expression of names."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    if expression.is_Integer:
        return int(expression)
    import sympy

    symbols = {s: sympy.Symbol(names.get(str(s), str(s)), integer=True, positive=True) for s in expression.free_symbols}
    return str(expression.xreplace(symbols))


def evaluate(size: int | str, sizes: Mapping[str, int]) -> int | None:
    """The value of a size, None where a name is unknown or the expression is more than arithmetic."""
    if isinstance(size, int):
        return size
    try:
        return _value(_parsed(size), sizes)
    except (KeyError, SyntaxError, ZeroDivisionError):
        return None


@functools.lru_cache(maxsize=1024)
def _parsed(text: str) -> ast.AST:
    """Each step of a generation asks for the same few expressions."""
    return ast.parse(text, mode="eval").body


def _value(node: ast.AST, sizes: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, sizes), _value(node.right, sizes))
    raise KeyError(ast.dump(node))
