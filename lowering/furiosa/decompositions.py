"""Registry of decompositions: ops that Furiosa's compiler lacks, computed by ops that it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]

RULES: dict[Any, Function] = {}


def rule(*ops: Any) -> Callable[[Function], Function]:
    """Decorator that makes a function the decomposition of `ops`."""

    def add(function: Function) -> Function:
        RULES.update(dict.fromkeys(ops, function))
        return function

    return add


def load_rules() -> dict[Any, Function]:
    """All decompositions, by op overload."""
    from graphwright.lowering.furiosa import arithmetic, attention, layers, reductions, shapes  # noqa: F401

    return RULES
