"""The table of ONNX emitters, and what they are called with."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch

from graphwright.lowering.emitters import EmitterTable
from graphwright.lowering.onnx.builder import Builder, Number
from graphwright.lowering.onnx.sizes import Sizes

__all__ = ["FAMILIES", "TABLE", "Emission", "Number", "load_table", "register"]

TABLE = EmitterTable()
register = TABLE.register

FAMILIES = (
    "attention", "casts", "convolution", "creation", "elementwise", "indexing", "logic", "matmul", "misc", "norm",
    "packed", "pooling", "reductions", "rotary", "scatter", "shapes", "slicing",
)  # fmt: skip


class Emission(Builder):
    """The builder that emitters are called with, and its run-time sizes.

    Args:
        opset: Version of the default operator set.
        maybe_empty: Symbols of dimensions that may be 0.
        packed: How packed linears are emitted: `dequantize` or `matmulnbits`; see `OnnxTarget`.
        dialect: `onnx` or `ort`; see `OnnxTarget`.

    `value_of` gives the value of a program's node that was emitted before; `instead` are the values that `stands_for`
    was told. Where caches are appended to in place, `total` and `rows` give the number of positions after a step and
    of rows, as int64 of shape [1]. `shared` are caches that may have fewer rows than the batch.
    """

    def __init__(
        self,
        opset: int,
        maybe_empty: frozenset[str] = frozenset(),
        packed: str = "dequantize",
        dialect: str = "onnx",
    ) -> None:
        super().__init__(opset)
        self.packed, self.dialect = packed, dialect
        self.sizes = Sizes(self, maybe_empty)
        self.stored_transposed: Callable[[ir.Value], ir.Value | None] = lambda weight: None
        self.value_of: Callable[[Any], Any] = lambda node: None
        self.instead: dict[ir.Value, ir.Value] = {}
        self.total: Callable[[], ir.Value] | None = None
        self.rows: Callable[[], ir.Value] | None = None
        self.shared: frozenset[Any] = frozenset()

    def stands_for(self, value: ir.Value, other: ir.Value) -> None:
        """Take another value for an earlier one where that is a result of the program."""
        self.instead[value] = other

    def scalar(self, value: Any, dtype: torch.dtype) -> ir.Value:
        """A number, a symbolic number or a value as a value of type `dtype`."""
        if isinstance(value, torch.SymInt):
            return self.cast(self.sizes.scalar(value), dtype)
        return super().scalar(value, dtype)

    def axes(self, dims: list[int] | int) -> ir.Value:
        """Dimension numbers as a constant of shape [n]."""
        return self.const([dims] if isinstance(dims, int) else list(dims))


def load_table() -> EmitterTable:
    """The table with all families of emitters imported."""
    for family in FAMILIES:
        importlib.import_module(f"graphwright.lowering.onnx.{family}")
    return TABLE
