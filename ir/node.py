"""Typed views of fx nodes: plain functions, no wrapper classes.

A *value* is a node with a tensor, a symbolic integer, or a tuple of them in `meta["val"]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.fx import Node

OpOverload = torch._ops.OpOverload
OpPacket = torch._ops.OpOverloadPacket

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_NO_MODULE = "_empty_nn_module_stack"  # torch's stand-in for nodes that no module made
_WEIGHTLESS_FRAMES = ("/torch/nn/", "/torch/utils/", "/torch/export/", "/torch/_", "/torch/fx/", "/torch/autograd/")


@dataclass(frozen=True)
class TensorType:
    """Element type and sizes of a tensor value; a size is an int or a `torch.SymInt`."""

    dtype: torch.dtype
    shape: tuple[int | torch.SymInt, ...]
    device: torch.device

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)


def value_of(node: Node) -> Any:
    """The fake value of a node: a FakeTensor, SymInt, number, or a tuple of them; None if unknown."""
    return node.meta.get("val")


def tensor_type(node: Node) -> TensorType | None:
    """Type of a tensor-valued node, None for any other node."""
    value = value_of(node)
    if not isinstance(value, torch.Tensor):
        return None
    return TensorType(value.dtype, tuple(value.shape), value.device)


def shape_of(node: Node) -> tuple[int | torch.SymInt, ...] | None:
    """Sizes of a tensor-valued node, None for any other node."""
    value = value_of(node)
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def is_call(node: Any, *targets: Any) -> bool:
    """Whether `node` calls one of `targets`; an op packet stands for all its overloads."""
    if not isinstance(node, Node) or node.op != "call_function":
        return False
    packet = getattr(node.target, "overloadpacket", None)
    return any(node.target is target or packet is target for target in targets)


@lru_cache(maxsize=4096)
def _parameters(op: OpOverload) -> tuple[tuple[str, bool, Any], ...]:
    """(name, keyword only, default) of each argument of an op's schema."""
    return tuple(
        (argument.name, argument.kwarg_only, argument.default_value if argument.has_default_value() else None)
        for argument in op._schema.arguments
    )


def bound(node: Node) -> dict[str, Any]:
    """Arguments of a call by schema name, defaults filled in.

    Calls of plain Python functions (`operator.getitem`) are bound to `arg0`, `arg1`, ... and their keywords.
    """
    if not isinstance(node.target, OpOverload):
        return {f"arg{i}": value for i, value in enumerate(node.args)} | dict(node.kwargs)
    arguments: dict[str, Any] = {}
    for i, (name, _, default) in enumerate(_parameters(node.target)):
        arguments[name] = node.args[i] if i < len(node.args) else node.kwargs.get(name, default)
    return arguments


def argument(node: Node, name: str) -> Any:
    """One argument of a call, by schema name."""
    return bound(node)[name]


def op_name(node: Node) -> str:
    """Readable name of what a node does: `softmax.int`, `linear`, `getitem`, `get_attr`."""
    if node.op != "call_function":
        return node.op
    target = node.target
    if isinstance(target, OpOverload):
        name = target._schema.name
        namespace, _, base = name.partition("::")
        overload = target._overloadname
        prefix = "" if namespace == "aten" else f"{namespace}."
        return prefix + (base if overload == "default" else f"{base}.{overload}")
    return getattr(target, "__name__", str(target))


def module_path(node: Node) -> str:
    """Path of the innermost module the node came from, `""` for the model itself."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = str(next(reversed(stack.values()))[0])
    return "" if path.startswith(_NO_MODULE) else path


def frames(node: Node) -> Iterator[tuple[str, int, str]]:
    """(file, line, function) of the Python frames that made the node, outermost first."""
    for file, line, function in _FRAME.findall(node.meta.get("stack_trace") or ""):
        yield file, int(line), function


def source_frame(node: Node) -> tuple[str, int] | None:
    """File and line of the model source that made the node: the innermost frame outside torch."""
    best: tuple[str, int] | None = None
    for file, line, _ in frames(node):
        if not any(part in file for part in _WEIGHTLESS_FRAMES):
            best = (file, line)
    return best


def source_line(node: Node) -> str:
    """`modeling_bert.py:192`, or `""` where unknown."""
    frame = source_frame(node)
    return f"{frame[0].rsplit('/', 1)[-1]}:{frame[1]}" if frame else ""


def where(node: Node) -> str:
    """The node with its module path and source line, for messages."""
    parts = [part for part in (module_path(node), source_line(node)) if part]
    return f"%{node.name}" + (f" ({', '.join(parts)})" if parts else "")
