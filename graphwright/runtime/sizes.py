"""SizeGuard: which input sizes a captured graph is valid for."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sympy
import torch
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from graphwright.ir.program import Program

Sizes = list[int]


class SizeGuard:
    """Sizes that torch.export proved or assumed while it traced a program.

    A size is fixed, a free symbol, or an expression of symbols; beyond that, the traced code may have taken branches
    that depend on sizes (`if length % 2 == 0`), each of which left a condition.

    Args:
        program: The captured program, before any pass.
        tensors: The tensors it was captured with.

    Attributes:
        symbols: Symbol -> its size in the capture.
    """

    def __init__(self, program: Program, tensors: Sequence[torch.Tensor]) -> None:
        values = [node.meta["val"] for node in program.placeholders]
        self._ranks = [value.dim() for value in values]
        self._expressions = [_expression(size) for value in values for size in value.shape]
        self.symbols: dict[sympy.Symbol, int] = {}
        for expression, size in zip(self._expressions, flat_sizes(tensors), strict=True):
            if expression.is_Symbol:
                self.symbols.setdefault(expression, size)
        self._condition = _compile(set(_conditions(values, self.symbols)), self.symbols)
        self._ranges = _ranges(values, self.symbols)
        self._index()

    def _index(self) -> None:
        """Split the sizes into fixed ones, symbols (by first place), repeated symbols, and expressions."""
        numbered = list(enumerate(self._expressions))
        self._fixed = [(i, int(e)) for i, e in numbered if e.is_Integer]
        self._first: dict[sympy.Symbol, int] = {}
        for i, expression in numbered:
            if expression.is_Symbol:
                self._first.setdefault(expression, i)
        self._same = [(i, self._first[e]) for i, e in numbered if e.is_Symbol and self._first[e] != i]
        self._derived = [(i, e) for i, e in numbered if not e.is_Integer and not e.is_Symbol]
        self._bounds = [(self._first[symbol], *bounds) for symbol, bounds in self._ranges.items()]

    def pin(self, symbols: Iterable[sympy.Symbol]) -> None:
        """Accept only the captured size of these symbols from now on."""
        for symbol in symbols:
            self._ranges[symbol] = (self.symbols[symbol], self.symbols[symbol])
        self._index()

    def accepts(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether a graph may run on tensors of these sizes; takes a few microseconds."""
        sizes = flat_sizes(tensors)
        if len(sizes) != len(self._expressions) or [t.dim() for t in tensors] != self._ranks:
            return False
        return (
            all([sizes[i] == size for i, size in self._fixed])
            and all([sizes[i] == sizes[j] for i, j in self._same])
            and all([low <= sizes[i] <= high for i, low, high in self._bounds])
            and (self._condition is None or bool(self._condition(*(sizes[i] for i in self._first.values()))))
            and (not self._derived or self._has_derived(sizes))
        )

    def _has_derived(self, sizes: Sizes) -> bool:
        values = {symbol: sizes[i] for symbol, i in self._first.items()}
        return all(_evaluate(expression, values) == sizes[i] for i, expression in self._derived)

    def sizes_with(self, values: dict[sympy.Symbol, int]) -> list[list[int]]:
        """Shapes of the inputs for other sizes of the symbols."""
        sizes = [int(_evaluate(expression, self.symbols | values)) for expression in self._expressions]
        left = iter(sizes)
        return [[next(left) for _ in range(rank)] for rank in self._ranks]


def flat_sizes(tensors: Sequence[torch.Tensor]) -> Sizes:
    """The sizes of all tensors, one after the other."""
    return [size for tensor in tensors for size in tensor.shape]


def _expression(size: int | torch.SymInt) -> Any:
    return sympy.Integer(size) if isinstance(size, int) else size.node.expr


_FUNCTIONS = {"Min": min, "Max": max, "Mod": operator.mod, "PythonMod": operator.mod, "FloorDiv": operator.floordiv}


def _compile(conditions: set[Any], symbols: dict[sympy.Symbol, int]) -> Callable[..., bool] | None:
    """One function of the symbols' sizes for all conditions; the graph's symbols are in the order of their places."""
    if not conditions:
        return None
    names = list(symbols)

    def slowly(*sizes: int) -> bool:
        values = dict(zip(names, sizes, strict=True))
        return all(_evaluate(condition, values) for condition in conditions)

    try:
        quickly: Callable[..., bool] = sympy.lambdify(names, sympy.And(*conditions), modules=[_FUNCTIONS, "math"])
        return quickly if quickly(*symbols.values()) else slowly
    except Exception:  # a function that only torch knows
        return slowly


def _evaluate(expression: Any, values: dict[sympy.Symbol, int]) -> Any:
    return sympy_interp(PythonReferenceAnalysis, values, expression)


def _shape_env(values: Sequence[torch.Tensor]) -> Any:
    for value in values:
        for size in value.shape:
            if isinstance(size, torch.SymInt):
                return size.node.shape_env
    return None


def _conditions(values: Sequence[torch.Tensor], symbols: dict[sympy.Symbol, int]) -> Iterable[Any]:
    """Conditions of the trace that do not follow from the fixed and the equal sizes."""
    environment = _shape_env(values)
    for guard in environment.guards if environment is not None else ():
        condition = environment.replace(guard.expr)
        if condition != sympy.true and condition.free_symbols <= symbols.keys() and not _is_range(condition):
            yield condition


def _is_range(condition: Any) -> bool:
    """Whether a condition only bounds one symbol; the symbol's range has it."""
    return (
        isinstance(condition, (sympy.Ge, sympy.Gt, sympy.Le, sympy.Lt))
        and condition.lhs.is_Symbol
        and condition.rhs.is_Integer
    )


def _ranges(values: Sequence[torch.Tensor], symbols: dict[sympy.Symbol, int]) -> dict[sympy.Symbol, tuple[int, int]]:
    environment = _shape_env(values)
    known = environment.var_to_range if environment is not None else {}
    return {symbol: _bounds(known[symbol]) if symbol in known else (2, 2**62) for symbol in symbols}


def _bounds(interval: Any) -> tuple[int, int]:
    low = int(interval.lower) if interval.lower.is_Integer else 2
    return max(low, 2), int(interval.upper) if interval.upper.is_Integer else 2**62
