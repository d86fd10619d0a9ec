"""The table of Neuron emitters."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from torch.fx import Node

from graphwright.lowering.emitters import Emit, EmitterTable, Validator

F = TypeVar("F", bound=Emit)
TABLE = EmitterTable()
_NAMED: dict[str, Emit] = {}


def register(*targets: Any, validate: Validator | None = None) -> Callable[[F], F]:
    """Decorator that makes a function the emitter of ops, or of names of ops that other packages define later."""

    def decorate(emit: F) -> F:
        names = [target for target in targets if isinstance(target, str)]
        _NAMED.update(dict.fromkeys(names, emit))
        return TABLE.register(*(target for target in targets if not isinstance(target, str)), validate=validate)(emit)

    return decorate


def meet(node: Node) -> None:
    """Take an op into the table that is known by its name alone."""
    name = getattr(getattr(node.target, "_schema", None), "name", "")
    if name in _NAMED and node.target not in TABLE.emitters:
        TABLE.register(node.target)(_NAMED[name])


FAMILIES = (
    "activation", "attention", "casts", "convolution", "creation", "elementwise", "experts", "indexing",
    "logic", "matmul", "norm", "packed", "pooling", "reductions", "resize", "scatter", "shapes", "slicing", "sorting",
)  # fmt: skip


def load_table() -> EmitterTable:
    """The table with all families of emitters imported."""
    for family in FAMILIES:
        importlib.import_module(f"graphwright.lowering.neuron.{family}")
    return TABLE
