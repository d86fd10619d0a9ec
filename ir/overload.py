"""Choosing the overload of an op from the arguments it is called with."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.errors import PatternError
from graphwright.ir.node import OpOverload, OpPacket


class Namespace:
    """`aten.mul(x, 2)`, `aten.mul.Scalar(x, 2)`: calls by name, passed to `call(overload, *args, **kwargs)`."""

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self._name, self._call = name, call

    def __getattr__(self, op: str) -> _Op:
        return _Op(packet(self._name, op), self._call)


class _Op:
    """An op that is waiting for its overload or its arguments."""

    def __init__(self, op: OpPacket, call: Callable[..., Any]) -> None:
        self._op, self._call_op = op, call

    def __getattr__(self, overload: str) -> Callable[..., Any]:
        if overload not in self._op.overloads():
            raise PatternError(
                f"{self._op} has no overload '{overload}'", why=f"it has {', '.join(self._op.overloads())}"
            )
        chosen = getattr(self._op, overload)
        return lambda *args, **kwargs: self._call_op(chosen, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call_op(choose_overload(self._op, args, kwargs), *args, **kwargs)


def packet(namespace: str, op: str) -> OpPacket:
    """The op packet of a name.

    Raises:
        PatternError: There is no such op; names the nearest ones.
    """
    ops = getattr(torch.ops, namespace)
    if not hasattr(ops, op):
        near = difflib.get_close_matches(op, dir(ops), n=3)
        raise PatternError(f"there is no op {namespace}.{op}", remedies=[f"did you mean {name}?" for name in near])
    return getattr(ops, op)


def choose_overload(op: OpPacket, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OpOverload:
    """The first overload whose schema accepts the arguments, tensors preferred to scalars.

    Raises:
        PatternError: No overload accepts them.
    """
    names = op.overloads()
    for name in names:
        overload = getattr(op, name)
        if name != "out" and not name.endswith("_out") and accepts(overload, args, kwargs):
            return overload
    schemas = [str(getattr(op, name)._schema) for name in names]
    raise PatternError(f"no overload of {op} accepts these arguments", why="; ".join(schemas))


def accepts(overload: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether arguments bind to an overload's schema by count, name and kind (tensor, number, list)."""
    arguments = overload._schema.arguments
    positional = [a for a in arguments if not a.kwarg_only]
    if len(args) > len(positional):
        return False
    given = dict(zip((a.name for a in positional), args, strict=False))
    if any(name in given for name in kwargs) or any(name not in {a.name for a in arguments} for name in kwargs):
        return False
    given |= kwargs
    for a in arguments:
        if a.name in given:
            if not _fits(str(a.type), given[a.name]):
                return False
        elif not a.has_default_value():
            return False
    return True


def _fits(kind: str, value: Any) -> bool:
    """Whether a value can be passed where the schema says `kind`."""
    value = getattr(value, "node", value)
    if kind.startswith("Optional["):
        return value is None or _fits(kind[len("Optional[") : -1], value)
    if value is None:
        return False
    if isinstance(value, Node):
        fake = value.meta.get("val")
        is_tensor = fake is None or isinstance(fake, torch.Tensor)
        return (
            is_tensor if kind == "Tensor" else not (is_tensor and kind in ("int", "float", "number", "Scalar", "bool"))
        )
    if isinstance(value, torch.Tensor):
        return kind == "Tensor"
    if isinstance(value, (list, tuple)):
        return kind.startswith("List[")
    if isinstance(value, bool):
        return kind in ("bool", "number", "Scalar", "int")
    if isinstance(value, int):
        return kind in ("int", "number", "Scalar", "float", "SymInt", "List[int]") or kind.startswith("List[")
    if isinstance(value, float):
        return kind in ("float", "number", "Scalar")
    return not kind.startswith(("Tensor", "List["))
