"""Names and ranges of a captured program's dynamic dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from graphwright.frontends.axes import Axis, Leaves, conventional_name
from graphwright.ir.errors import InputError
from graphwright.ir.program import Dim, Program


def name_dims(program: Program, parameters: Sequence[str], axes: Leaves) -> None:
    """Name the program's symbols after the axes that they came from, and narrow them to the wanted ranges.

    Args:
        program: Changed in place: its `dims`.
        parameters: The parameter of each leaf, in placeholder order.
        axes: What was asked for.

    Raises:
        InputError: A dimension that must be dynamic is fixed by the model, or its range is empty.
    """
    found: dict[str, Axis] = {}
    taken: set[str] = set()
    for node, parameter, wanted in zip(program.placeholders, parameters, axes, strict=True):
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            continue
        for i, size in enumerate(value.shape):
            axis = wanted.get(i) or Axis(conventional_name(parameter, value, i))
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                symbol = str(size.node.expr)
                if symbol not in found:
                    found[symbol] = replace(axis, name=_free(axis.name, parameter, i, taken))
                elif wanted.get(i):
                    found[symbol] = _both(found[symbol], axis)
            elif axis.required and _is_fixed(size):
                raise _fixed(axis, parameter, i, size)
    program.dims = tuple(_dim(dim, found[dim.symbol]) for dim in program.dims)


def _is_fixed(size: Any) -> bool:
    return not isinstance(size, torch.SymInt) or bool(size.node.expr.is_number)


def _free(name: str, parameter: str, dim: int, taken: set[str]) -> str:
    """`name`, unless another symbol has it: then the parameter says which."""
    options = (name, f"{name}_{parameter}", f"{parameter}_{dim}")
    free = next(
        (option for option in options if option not in taken and "+" not in option), f"{options[2]}_{len(taken)}"
    )
    taken.add(free)
    return free


def _both(first: Axis, second: Axis) -> Axis:
    lows = [axis.min for axis in (first, second) if axis.min is not None]
    highs = [axis.max for axis in (first, second) if axis.max is not None]
    return replace(first, min=max(lows, default=None), max=min(highs, default=None))


def _dim(dim: Dim, axis: Axis) -> Dim:
    low = dim.min if axis.min is None else max(dim.min, axis.min)
    high = min((bound for bound in (dim.max, axis.max) if bound is not None), default=None)
    if high is not None and low > high:
        raise InputError(
            f"the dimension '{axis.name}' cannot be {axis.min} to {axis.max}",
            why=f"the model allows {dim.min} to {dim.max}",
        )
    return replace(dim, name=axis.name, min=low, max=high)


def _fixed(axis: Axis, parameter: str, dim: int, size: int) -> InputError:
    return InputError(
        f"the dimension '{axis.name}' ('{parameter}' dimension {dim}) cannot be dynamic",
        why=f"the model fixes it to {size}",
        remedies=["leave it out of dynamic=", "use dynamic='auto', which keeps such dimensions static"],
    )
