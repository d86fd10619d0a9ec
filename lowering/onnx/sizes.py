"""Sizes known only at run time: from sympy expressions to small integer sub-graphs that are emitted once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import sympy
import torch
from torch.utils._sympy import functions

from graphwright.lowering.dims import expression
from graphwright.lowering.onnx.builder import Builder

Size = int | torch.SymInt

_BINARY: dict[type, str] = {
    sympy.Add: "Add",
    sympy.Mul: "Mul",
    sympy.Max: "Max",
    sympy.Min: "Min",
    functions.Max: "Max",
    functions.Min: "Min",
    functions.FloorDiv: "Div",
    functions.CleanDiv: "Div",
    functions.Mod: "Mod",
    functions.PythonMod: "Mod",
}


def why_not(size: Any) -> str:
    """Why a symbolic number cannot be emitted, `""` if it can."""
    if not isinstance(size, torch.SymInt):
        return "" if isinstance(size, int) else f"a symbolic {type(size).__name__} has no ONNX form here"
    for part in sympy.preorder_traversal(expression(size)):
        power = isinstance(part, sympy.Pow) and part.exp.is_Integer and part.exp > 0
        if not (part.is_Symbol or part.is_Integer or power or type(part) in _BINARY):
            return f"the size expression {part} ({type(part).__name__}) has no ONNX form"
    return ""


def same_sizes(left: Sequence[Size], right: Sequence[Size]) -> bool:
    """Whether two shapes are equal for all sizes."""
    return [*map(expression, left)] == [*map(expression, right)]


class Sizes:
    """Emits sizes; each expression once, each symbol from the first value that has it as a dimension.

    Args:
        builder: Where the operators go.
        maybe_empty: Symbols that may be 0.
    """

    def __init__(self, builder: Builder, maybe_empty: frozenset[str] = frozenset()) -> None:
        self.builder, self.maybe_empty = builder, maybe_empty
        self._roots: dict[sympy.Symbol, Callable[[], ir.Value]] = {}
        self._known: dict[sympy.Expr, ir.Value] = {}

    def learn(self, value: ir.Value, fake: torch.Tensor) -> None:
        """Take unknown symbols from the sizes of a value, such as `s` from a size of `2*s + 1`."""
        for i, size in enumerate(fake.shape):
            if not isinstance(size, torch.SymInt):
                continue
            symbols = expression(size).free_symbols
            if len(symbols) == 1:
                (symbol,) = symbols
                if symbol not in self._roots:
                    self._roots[symbol] = lambda i=i, size=size, symbol=symbol: self._root(value, i, size, symbol)

    def derive(self, size: torch.SymInt, make: Callable[[], ir.Value]) -> None:
        """Say how the value of a symbol is made, whatever values have it as a dimension."""
        self._roots[expression(size)] = make

    def define(self, size: torch.SymInt, value: ir.Value) -> None:
        """Say that a symbolic number that tensors computed (such as `x.item()`) is `value`, an int64 of shape [1]."""
        self._known.setdefault(expression(size), value)

    def _root(self, value: ir.Value, i: int, size: Size, symbol: sympy.Symbol) -> ir.Value:
        emitted = self.builder.op("Shape", value, dtype=torch.int64, start=i, end=i + 1)
        slope = expression(size).coeff(symbol)
        offset = sympy.expand(expression(size) - slope * symbol)
        if offset != 0:
            emitted = self.builder.op("Sub", emitted, self.builder.const([int(offset)]))
        return emitted if slope == 1 else self.builder.op("Div", emitted, self.builder.const([int(slope)]))

    # ---- single sizes ------------------------------------------------------------------------

    def size(self, size: Size) -> ir.Value:
        """A size as an int64 value of shape [1]."""
        return self._emit(expression(size))

    def scalar(self, size: Size) -> ir.Value:
        """A size as an int64 value of shape []."""
        if isinstance(size, int):
            return self.builder.const(size)
        return self.builder.op("Squeeze", self.size(size), self.builder.const([0]))

    def _emit(self, expr: sympy.Expr) -> ir.Value:
        if expr not in self._known:
            self._known[expr] = self._make(expr)
        return self._known[expr]

    def _make(self, expr: sympy.Expr) -> ir.Value:
        if expr.is_Integer:
            return self.builder.const([int(expr)])
        if expr.is_Symbol:
            return self._roots[expr]()
        if isinstance(expr, sympy.Pow):
            return self._reduce("Mul", [self._emit(expr.base)] * int(expr.exp))
        kind = _BINARY[type(expr)]
        if kind == "Mod":
            return self.builder.op("Mod", *(self._emit(part) for part in expr.args), fmod=0)
        if kind == "Div":
            return self._floor_div(*expr.args)
        return self._reduce(kind, [self._emit(part) for part in expr.args])

    def _floor_div(self, left: sympy.Expr, right: sympy.Expr) -> ir.Value:
        """ONNX divides towards zero: a numerator that may be negative is shifted by its remainder first."""
        a, b = self._emit(left), self._emit(right)
        if left.is_nonnegative is not True:
            a = self.builder.op("Sub", a, self.builder.op("Mod", a, b, fmod=0))
        return self.builder.op("Div", a, b)

    def _reduce(self, kind: str, values: Sequence[ir.Value]) -> ir.Value:
        result = values[0]
        for value in values[1:]:
            result = self.builder.op(kind, result, value)
        return result

    # ---- shapes ------------------------------------------------------------------------------

    def vector(self, sizes: Sequence[Size]) -> ir.Value:
        """Sizes as one int64 value of shape [len(sizes)]."""
        runs: list[ir.Value] = []
        fixed: list[int] = []
        for size in sizes:
            if isinstance(size, int) or expression(size).is_Integer:
                fixed.append(int(expression(size)))
                continue
            runs += [*([self.builder.const(fixed)] if fixed else []), self.size(size)]
            fixed = []
        if fixed or not runs:
            runs.append(self.builder.const(fixed))
        return runs[0] if len(runs) == 1 else self.builder.op("Concat", *runs, axis=0)

    def reshape(self, value: ir.Value, sizes: Sequence[Size]) -> ir.Value:
        """Reshape a program value, with a constant shape where `0` (copy) and one `-1` (infer) are enough."""
        before = self.builder.shape(value)
        if same_sizes(before, sizes):
            return value
        split = value.producer()
        if split is not None and split.op_type == "Reshape" and split.inputs[0] is not None:
            whole = self.builder.known(split.inputs[0])
            if whole is not None and same_sizes(whole.shape, sizes):
                return split.inputs[0]
        plan: list[Size] = [self._copied(before, i, size) for i, size in enumerate(sizes)]
        if not self._may_be_empty(sizes):
            for i, size in enumerate(plan):
                if isinstance(size, torch.SymInt):
                    plan[i] = -1
                    break
        if any(isinstance(size, int) and size == 0 for size in sizes):
            return self.builder.op("Reshape", value, self.vector(sizes), allowzero=1)
        return self.builder.op("Reshape", value, self.vector(plan))

    def _copied(self, before: Sequence[Size], i: int, size: Size) -> Size:
        same = i < len(before) and isinstance(size, torch.SymInt) and expression(before[i]) == expression(size)
        return 0 if same else size

    def _may_be_empty(self, sizes: Sequence[Size]) -> bool:
        symbols = {str(s) for size in sizes for s in expression(size).free_symbols}
        return bool(symbols & self.maybe_empty)
