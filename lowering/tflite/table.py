"""The table of TFLite emitters."""

from __future__ import annotations

import importlib

from graphwright.lowering.emitters import EmitterTable

TABLE = EmitterTable()
register = TABLE.register

FAMILIES = (
    "attention", "casts", "convolution", "creation", "elementwise", "indexing", "logic", "matmul", "norm", "packed",
    "pooling", "reductions", "scatter", "shapes",
)  # fmt: skip


def load_table() -> EmitterTable:
    """The table with all families of emitters imported."""
    for family in FAMILIES:
        importlib.import_module(f"graphwright.lowering.tflite.{family}")
    return TABLE
