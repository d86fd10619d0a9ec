"""Types of new nodes, inferred by running the op on fake tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Graph
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.fx.node import map_arg

from graphwright.ir.node import value_of


def fake_mode_of(graph: Graph) -> FakeTensorMode:
    """The mode that the graph's fake tensors belong to; a new one if it has none."""
    for node in graph.nodes:
        value = value_of(node)
        if isinstance(value, FakeTensor):
            return value.fake_mode
    return FakeTensorMode()


@contextlib.contextmanager
def inference_scope(mode: FakeTensorMode) -> Iterator[None]:
    """Inside, ops run on fake tensors and no guard is added to the symbols."""
    shape_env = mode.shape_env
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(mode)
        stack.enter_context(enable_python_dispatcher())
        if shape_env is not None:
            stack.enter_context(shape_env.suppress_guards())
            stack.enter_context(shape_env.ignore_fresh_unbacked_symbols())
        yield


def infer(mode: FakeTensorMode, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The fake result of calling `target`; nodes among the arguments stand for their values.

    Raises:
        Exception: Whatever the op raises for wrong arguments; the Rewriter adds the site.
    """
    fake_args = map_arg(args, value_of)
    fake_kwargs = map_arg(kwargs, value_of)
    with inference_scope(mode):
        return target(*fake_args, **fake_kwargs)


def fake_of(mode: FakeTensorMode, tensor: torch.Tensor) -> torch.Tensor:
    """A fake stand-in for a constant or weight, of static size."""
    return mode.from_tensor(tensor, static_shapes=True)


def same_size(a: int | torch.SymInt, b: int | torch.SymInt) -> bool:
    """Whether two sizes are equal for every value of their symbols; never adds a guard."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if isinstance(a, torch.SymInt) and isinstance(b, torch.SymInt) and a.node.expr == b.node.expr:
        return True
    return statically_known_true(a == b)


def same_shape(a: tuple[Any, ...] | torch.Size, b: tuple[Any, ...] | torch.Size) -> bool:
    """Whether two shapes are equal for every value of their symbols."""
    return len(a) == len(b) and all(same_size(x, y) for x, y in zip(a, b, strict=True))


def type_difference(old: Any, new: Any) -> str | None:
    """Why a value may not stand in for another, or None if it may: dtype, device and shape must agree."""
    if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
        if old.dtype != new.dtype:
            return f"dtype {new.dtype} instead of {old.dtype}"
        if old.device != new.device:
            return f"device {new.device} instead of {old.device}"
        if not same_shape(tuple(old.shape), tuple(new.shape)):
            return f"shape {_sizes(new)} instead of {_sizes(old)}"
        return None
    if isinstance(old, (tuple, list)) and isinstance(new, (tuple, list)):
        if len(old) != len(new):
            return f"{len(new)} results instead of {len(old)}"
        return next((d for a, b in zip(old, new, strict=True) if (d := type_difference(a, b))), None)
    if isinstance(old, (int, torch.SymInt)) and isinstance(new, (int, torch.SymInt)):
        return None if same_size(old, new) else f"size {new} instead of {old}"
    return None if type(old) is type(new) or old is None else f"{type(new).__name__} instead of {type(old).__name__}"


def _sizes(value: torch.Tensor) -> str:
    return "[" + ", ".join(str(size) for size in value.shape) + "]"
