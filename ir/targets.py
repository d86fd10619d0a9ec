"""Stable names of what nodes call, and the way back: registered ops and an allow-list of functions, never an import."""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.ir.errors import FileFormatError

_OPERATORS = (
    "abs add and_ eq floordiv ge getitem gt index inv invert le lshift lt mod mul ne neg not_ or_ pos pow rshift sub "
    "truediv xor"
)
_TOUCHES_FILES = frozenset({"aten.from_file.default", "aten.from_file.out"})
_MATH = "acos asin atan ceil cos cosh floor log2 sin sinh sqrt tan tanh trunc"
_BUILTINS = "abs bool float int max min pow round"


def _functions() -> dict[str, Callable[..., Any]]:
    """Name -> function of the Python functions that torch puts into graphs, for sizes above all."""
    functions: dict[str, Callable[..., Any]] = {}
    for module, prefix, names in (
        (builtins, "builtins", _BUILTINS),
        (math, "math", _MATH),
        (operator, "_operator", _OPERATORS),
        (torch, "torch", " ".join(name for name in dir(torch) if name.startswith(("sym_", "_sym_")))),
    ):
        for name in names.split():
            if callable(function := getattr(module, name, None)):
                functions[f"{prefix}.{name}"] = function
    return functions


FUNCTIONS = _functions()
_NAMES = {function: name for name, function in FUNCTIONS.items()}


def target_name(target: Any) -> str:
    """Stable name of a call's target: `aten.softmax.int`, `higher_order.cond`, `_operator.getitem`.

    A function outside the allow-list gets its qualified name, which `resolve_target` refuses.
    """
    if isinstance(target, str):
        return target
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    if isinstance(target, torch._ops.HigherOrderOperator):
        return f"higher_order.{target.name()}"
    if target in _NAMES:
        return _NAMES[target]
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', type(target).__qualname__)}"


def resolve_target(name: str) -> Any:
    """The op or function of a name that `target_name` gave.

    Raises:
        FileFormatError: It is neither a registered op nor on the list of allowed functions.
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    found = _registered(name)
    if found is None or name in _TOUCHES_FILES:
        raise FileFormatError(
            f"'{name}' is not an op that is registered here",
            remedies=["import the package that registers the op before loading", "check the version of torch"],
        )
    return found


def _registered(name: str) -> Any:
    parts = name.split(".")
    if len(parts) == 2 and parts[0] == "higher_order":
        found = getattr(torch.ops.higher_order, parts[1], None)
        return found if isinstance(found, torch._ops.HigherOrderOperator) else None
    if len(parts) != 3 or not all(part.isidentifier() for part in parts):
        return None
    packet = getattr(getattr(torch.ops, parts[0]), parts[1], None)
    found = getattr(packet, parts[2], None) if isinstance(packet, torch._ops.OpOverloadPacket) else None
    return found if isinstance(found, torch._ops.OpOverload) else None
