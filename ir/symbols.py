"""Symbolic sizes in files: what is known of each symbol, and types read back from their text."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from graphwright.ir.encoding import DTYPES
from graphwright.ir.errors import FileFormatError
from graphwright.ir.program import Program
from graphwright.ir.typetext import dtype_text

_TENSOR = re.compile(r"(\w+)\[(.*)\](?:@([\w:]+))?")
_NUMBER = re.compile(r"(int|float|bool)\((.*)\)")
_BY_TEXT = {dtype_text(dtype): dtype for dtype in DTYPES.values()}
_LARGEST_POWER = 8


@dataclass(frozen=True)
class SymbolInfo:
    """What torch knows of a symbol.

    Args:
        name: The symbol, such as `s53`.
        hint: Its size in the example that the program was captured with.
        min: Smallest size assumed.
        max: Largest size assumed, None where unbounded.
    """

    name: str
    hint: int
    min: int
    max: int | None


def symbols_of(program: Program) -> list[SymbolInfo]:
    """The symbols that the sizes of a program's inputs are made of."""
    found: dict[str, SymbolInfo] = {}
    for node in program.placeholders:
        value = node.meta.get("val")
        for size in value.shape if isinstance(value, torch.Tensor) else (value,):
            if isinstance(size, torch.SymInt):
                env = size.node.shape_env
                for symbol in sorted(size.node.expr.free_symbols, key=str):
                    found.setdefault(str(symbol), _info(env, symbol))
    return list(found.values())


def _info(env: ShapeEnv, symbol: Any) -> SymbolInfo:
    bounds = env.var_to_range[symbol]
    hints = env.backed_var_to_val if hasattr(env, "backed_var_to_val") else env.var_to_val
    high = int(bounds.upper) if bounds.upper.is_Integer and int(bounds.upper) < 2**62 else None
    return SymbolInfo(str(symbol), int(hints[symbol]), int(bounds.lower), high)


def make_symbols(infos: Sequence[SymbolInfo]) -> tuple[FakeTensorMode, dict[str, torch.SymInt]]:
    """A new fake mode with these symbols, under the same names where this torch allows it.

    Returns:
        The mode, and the symbolic sizes by recorded symbol name.
    """
    env = ShapeEnv()
    return FakeTensorMode(shape_env=env, allow_non_fake_inputs=True), {info.name: _make(env, info) for info in infos}


def _make(env: ShapeEnv, info: SymbolInfo) -> torch.SymInt:
    source = ConstantSource(f"__{info.name}")
    if re.fullmatch(r"s\d{1,9}", info.name):
        number = int(info.name[1:])
        env.__dict__["_generate_unique_id"] = lambda source_name: number
    symbol = env.create_symbol(info.hint, source, DimDynamic.DYNAMIC, do_not_specialize_zero_one=True)
    env.__dict__.pop("_generate_unique_id", None)
    high = int_oo if info.max is None else info.max
    env.var_to_range[symbol] = ValueRanges(info.min, high)
    size = env.create_symintnode(symbol, hint=info.hint, source=source)
    if not isinstance(size, torch.SymInt):
        raise FileFormatError(f"the symbol {info.name} is not a symbol but {size}")
    return size


def parse_type(text: str, sizes: Mapping[str, Any]) -> Any:
    """A value of the type that `type_text` wrote; call it inside a fake mode.

    Args:
        text: Such as `f32[batch,768]`, `int(past+sequence)`.
        sizes: Dimension and symbol names -> symbolic sizes.

    Raises:
        FileFormatError: The text is malformed or names an unknown dimension.
    """
    if found := _TENSOR.fullmatch(text):
        if found[1] not in _BY_TEXT:
            raise FileFormatError(f"unknown element type '{found[1]}'")
        shape = [parse_size(part, sizes) for part in split_sizes(found[2])]
        return torch.empty(shape, dtype=_BY_TEXT[found[1]], device=found[3] or "cpu")
    if text.startswith("(") and text.endswith(")"):
        return tuple(parse_type(part, sizes) for part in text[1:-1].split(", "))
    if found := _NUMBER.fullmatch(text):
        return parse_size(found[2], sizes)
    raise FileFormatError(f"cannot read the type '{text}'")


def split_sizes(text: str) -> list[str]:
    """Split at the commas outside parentheses."""
    return [part for part in re.split(r",(?![^()]*\))", text) if part]


def parse_size(text: str, sizes: Mapping[str, Any]) -> Any:
    """A size expression such as `2*(past+sequence)`, computed with symbolic sizes; never evaluated as Python.

    Raises:
        FileFormatError: It is malformed, uses an unknown name, or anything but integer arithmetic.
    """
    try:
        return _evaluate(ast.parse(text, mode="eval").body, sizes)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise FileFormatError(f"cannot read the size '{text[:80]}'", why=str(error)) from error


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_CALLS: dict[str, Callable[..., Any]] = {
    "Max": torch.sym_max,
    "Min": torch.sym_min,
    "FloorDiv": operator.floordiv,
    "CleanDiv": operator.floordiv,
    "CeilDiv": lambda a, b: -(-a // b),
    "Mod": operator.mod,
    "PythonMod": operator.mod,
}


def _evaluate(tree: ast.expr, sizes: Mapping[str, Any]) -> Any:
    if isinstance(tree, ast.Constant) and type(tree.value) is int:
        return tree.value
    if isinstance(tree, ast.Name) and tree.id in sizes:
        return sizes[tree.id]
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        return -_evaluate(tree.operand, sizes)
    if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATORS:
        return _OPERATORS[type(tree.op)](_evaluate(tree.left, sizes), _evaluate(tree.right, sizes))
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Pow):
        return _power(_evaluate(tree.left, sizes), _evaluate(tree.right, sizes))
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id in _CALLS:
        return _CALLS[tree.func.id](*[_evaluate(argument, sizes) for argument in tree.args])
    raise ValueError(f"'{ast.unparse(tree)[:80]}' is not a size of this program")


def _power(base: Any, exponent: Any) -> Any:
    if type(exponent) is not int or not 0 <= exponent <= _LARGEST_POWER:
        raise ValueError(f"the exponent must be a number from 0 to {_LARGEST_POWER}")
    result = 1
    for _ in range(exponent):
        result = result * base
    return result
