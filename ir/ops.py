"""Facts about operators, read from their schemas where the schema says it and from small tables where it does not."""

from __future__ import annotations

import difflib
from functools import lru_cache
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.node import OpOverload, OpPacket, bound

_COMMUTATIVE = frozenset(
    [
        "add",
        "mul",
        "maximum",
        "minimum",
        "fmax",
        "fmin",
        "max",
        "min",
        "eq",
        "ne",
        "logaddexp",
        "logaddexp2",
        "logical_and",
        "logical_or",
        "logical_xor",
        "hypot",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
        "__and__",
        "__or__",
        "__xor__",
        "gcd",
        "lcm",
    ]
)
_SWAPPABLE = {"transpose": ("dim0", "dim1"), "swapaxes": ("axis0", "axis1"), "swapdims": ("dim0", "dim1")}
_RELAYOUTS = frozenset(
    [
        "view",
        "reshape",
        "_unsafe_view",
        "_reshape_alias",
        "transpose",
        "swapaxes",
        "swapdims",
        "permute",
        "t",
        "numpy_T",
        "movedim",
        "moveaxis",
        "squeeze",
        "unsqueeze",
        "expand",
        "expand_as",
        "broadcast_to",
        "flatten",
        "unflatten",
        "contiguous",
        "alias",
        "view_as",
    ]
)
_AXES = frozenset(["dim", "dims", "dim0", "dim1", "dim2", "axis", "axis0", "axis1", "start_dim", "end_dim"])
_ADDS_AN_AXIS = frozenset({"unsqueeze", "stack"})
_RANDOM_UNLESS = {"train": False, "training": False, "dropout_p": 0.0, "p": 0.0}


def base_name(op: Any) -> str:
    """Name without namespace and overload: `softmax` for `aten::softmax.int`."""
    if isinstance(op, OpOverload):
        return str(op._schema.name).rpartition("::")[2]
    if isinstance(op, OpPacket):
        return str(op._qualified_op_name).rpartition("::")[2]
    return str(getattr(op, "__name__", op))


def _overload(op: Any) -> Any:
    """The op of a node; a packet stands for its first overload."""
    op = op.target if isinstance(op, Node) else op
    return getattr(op, op.overloads()[0]) if isinstance(op, OpPacket) else op


def _is_aten(op: Any) -> bool:
    return isinstance(op, OpOverload) and op.namespace == "aten"


@lru_cache(maxsize=4096)
def swappable_arguments(op: Any) -> tuple[str, str] | None:
    """The two arguments that may trade places, None if there are none.

    `add` also multiplies its second argument by `alpha`, so there a swap needs `alpha == 1`.
    """
    op = _overload(op)
    if not _is_aten(op):
        return None
    if base_name(op) in _COMMUTATIVE:
        names = [argument.name for argument in op._schema.arguments]
        return ("self", "other") if names[:2] == ["self", "other"] else None
    return _SWAPPABLE.get(base_name(op))


def is_commutative(op: Any) -> bool:
    """Whether an overload, packet or node gives the same result for (x, y) and (y, x)."""
    op = _overload(op)
    return swappable_arguments(op) is not None and base_name(op) in _COMMUTATIVE


def is_view(op: Any) -> bool:
    """Whether the result may share memory with an argument, by the op's schema."""
    op = _overload(op)
    if not isinstance(op, OpOverload):
        return False
    aliases = [result.alias_info for result in op._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def is_relayout(op: Any) -> bool:
    """Whether the op only changes shape or strides: the elements and their dtype stay what they are."""
    op = _overload(op)
    return _is_aten(op) and base_name(op) in _RELAYOUTS


def is_random(op: Any) -> bool:
    """Whether the op can draw random numbers; for a node, whether this call does (dropout in evaluation does not)."""
    overload = _overload(op)
    if not isinstance(overload, OpOverload) or torch.Tag.nondeterministic_seeded not in overload.tags:
        return False
    if not isinstance(op, Node):
        return True
    arguments = bound(op)
    return not any(name in arguments and arguments[name] == off for name, off in _RANDOM_UNLESS.items())


def is_pure(op: Any) -> bool:
    """Whether equal arguments always give equal results and nothing else happens."""
    overload = _overload(op)
    if not isinstance(overload, OpOverload):
        return not (isinstance(op, Node) and op.is_impure())
    schema = overload._schema
    return bool(schema.returns) and not schema.is_mutable and "assert" not in schema.name and not is_random(op)


@lru_cache(maxsize=4096)
def axis_arguments(op: Any) -> frozenset[str]:
    """Names of the arguments that are axes of the input, which may be negative."""
    if not _is_aten(op):
        return frozenset()
    return frozenset(a.name for a in op._schema.arguments if a.name in _AXES and "int" in str(a.type))


def axis_rank(node: Node) -> int | None:
    """The rank that the axes of a call count against, None where unknown."""
    if base_name(node.target) in _ADDS_AN_AXIS:
        value = node.meta.get("val")
    else:
        first = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
        first = first[0] if isinstance(first, (list, tuple)) and first else first
        value = first.meta.get("val") if isinstance(first, Node) else None
    return value.dim() if isinstance(value, torch.Tensor) else None


def nearest_ops(namespace: str, name: str, count: int = 3) -> list[str]:
    """Registered op names of a namespace that are spelt most like `name`."""
    known = {full.partition("::")[2].partition(".")[0] for full in _registered() if full.startswith(f"{namespace}::")}
    return difflib.get_close_matches(name, sorted(known), n=count)


def _registered() -> list[str]:
    return torch._C._dispatch_get_all_op_names()
