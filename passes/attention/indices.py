"""Integer tensors as affine functions of their own indices: `arange(n)[:, None] + 3` is `i + 3`.

Axes are counted from the right (-1 is the last), as broadcasting does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.fx import Node

from graphwright.ir.infer import same_size
from graphwright.ir.node import bound, is_call, shape_of, value_of

aten = torch.ops.aten


@dataclass(frozen=True)
class Affine:
    """`sum(coefficient * index of axis) + constant`; the constant may hold symbols of sizes."""

    coefficients: tuple[tuple[int, int], ...] = ()
    constant: Any = sympy.S.Zero

    def __sub__(self, other: Affine) -> Affine:
        return self + other.times(-1)

    def __add__(self, other: Affine) -> Affine:
        merged = dict(self.coefficients)
        for axis, coefficient in other.coefficients:
            merged[axis] = merged.get(axis, 0) + coefficient
        return Affine(_nonzero(merged), self.constant + other.constant)

    def times(self, factor: int) -> Affine:
        """The function multiplied with a number."""
        return Affine(_nonzero({axis: c * factor for axis, c in self.coefficients}), self.constant * factor)

    def moved(self, axes: Mapping[int, int]) -> Affine:
        """The function with its axes renamed; an axis without a new name has size 1, so its index is 0."""
        return Affine(_nonzero({axes[axis]: c for axis, c in self.coefficients if axis in axes}), self.constant)

    def is_zero(self) -> bool:
        """Whether the function is 0 everywhere."""
        return not self.coefficients and sympy.sympify(self.constant).is_zero is True

    def never_negative(self) -> bool:
        """Whether the function is at least 0 for every index and every size."""
        return all(c >= 0 for _, c in self.coefficients) and bool(sympy.sympify(self.constant).is_nonnegative)


def _nonzero(coefficients: Mapping[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted((axis, c) for axis, c in coefficients.items() if c))


def constant(value: Any) -> Affine | None:
    """A number or symbolic size as a function without indices."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return Affine((), sympy.Integer(value))
    if isinstance(value, Node):
        value = value_of(value)
    if isinstance(value, torch.SymInt):
        return Affine((), value.node.expr)
    return Affine((), sympy.Integer(value)) if isinstance(value, int) else None


def move_axes(node: Node) -> tuple[Node, dict[int, int]] | None:
    """For an op that only moves, adds or removes axes: its source, and old -> new (negative) axis; else None."""
    source: Any = node.args[0] if node.args else None
    if is_call(node, aten.unsqueeze, aten.reshape, aten.squeeze):
        mapping = _axes_without_ones(source, node)
        return None if mapping is None else (source, mapping)
    if is_call(node, aten.expand, aten.to.dtype, aten.alias, aten.clone, aten.contiguous):
        rank = len(shape_of(source) or ())
        return source, {axis: axis for axis in range(-rank, 0)}
    if is_call(node, aten.transpose.int):
        rank = len(shape_of(node) or ())
        dims: Any = node.args[1:3]
        a, b = (int(dim) % rank - rank for dim in dims)
        return source, {axis: axis for axis in range(-rank, 0)} | {a: b, b: a}
    return None


def _axes_without_ones(source: Node, node: Node) -> dict[int, int] | None:
    """Old -> new axis where two shapes differ only in axes of size 1; None if they differ otherwise."""
    old, new = shape_of(source) or (), shape_of(node) or ()
    old_axes = [i - len(old) for i, size in enumerate(old) if not _is_one(size)]
    new_axes = [i - len(new) for i, size in enumerate(new) if not _is_one(size)]
    if len(old_axes) != len(new_axes):
        return None
    if not all(same_size(old[a], new[b]) for a, b in zip(old_axes, new_axes, strict=True)):
        return None
    return dict(zip(old_axes, new_axes, strict=True))


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def affine(node: Any, state: Mapping[str, Any]) -> Affine | None:
    """What an integer tensor is as a function of its indices; None if that is not known."""
    found = _affine(node, state)
    if found is None or not isinstance(node, Node):
        return found
    shape = shape_of(node) or ()
    wide = {i - len(shape): i - len(shape) for i, size in enumerate(shape) if not _is_one(size)}
    return found.moved(wide)


def _affine(node: Any, state: Mapping[str, Any]) -> Affine | None:
    if not isinstance(node, Node) or not isinstance(value_of(node), torch.Tensor):
        return constant(node)
    if node.op == "get_attr":
        return _stored_arange(state.get(str(node.target)))
    for targets, read in _READERS:
        if is_call(node, *targets):
            return read(node, state)
    moved = move_axes(node)
    if moved is None or value_of(node).dtype not in (torch.int32, torch.int64):
        return None
    inner = affine(moved[0], state)
    return None if inner is None else inner.moved(moved[1])


def _arange(node: Node, state: Mapping[str, Any]) -> Affine | None:
    arguments = bound(node)
    start, step = constant(arguments.get("start", 0)), arguments.get("step", 1)
    if start is None or not isinstance(step, int):
        return None
    return Affine(((-1, step),)) + start


def _stored_arange(tensor: Any) -> Affine | None:
    """A stored constant `0, 1, 2, ...` along its last axis."""
    if not isinstance(tensor, torch.Tensor) or tensor.dtype not in (torch.int32, torch.int64) or tensor.is_meta:
        return None
    if tensor.numel() == 1:
        return Affine((), sympy.Integer(int(tensor)))
    if tensor.numel() > 1 << 22 or tensor.dim() == 0 or tensor.numel() != tensor.shape[-1]:
        return None
    is_arange = torch.equal(tensor.flatten(), torch.arange(tensor.numel(), dtype=tensor.dtype, device=tensor.device))
    return Affine(((-1, 1),)) if is_arange else None


def _sum(node: Node, state: Mapping[str, Any]) -> Affine | None:
    arguments = bound(node)
    a, b, alpha = affine(arguments["self"], state), affine(arguments["other"], state), arguments.get("alpha") or 1
    if a is None or b is None or not isinstance(alpha, int):
        return None
    return a + b.times(alpha if is_call(node, aten.add) else -alpha)


def _slice(node: Node, state: Mapping[str, Any]) -> Affine | None:
    arguments = bound(node)
    inner = affine(arguments["self"], state)
    start = constant(arguments["start"] or 0)
    if inner is None or start is None or arguments["step"] != 1 or not start.never_negative():
        return None
    axis = arguments["dim"] - len(shape_of(node) or ()) if arguments["dim"] >= 0 else arguments["dim"]
    coefficient = dict(inner.coefficients).get(axis, 0)
    return inner + start.times(coefficient)


def _diff(node: Node, state: Mapping[str, Any]) -> Affine | None:
    """First differences along the last axis, where what is prepended continues the function to the left."""
    arguments = bound(node)
    x, first = affine(arguments["self"], state), affine(arguments["prepend"], state)
    last = arguments["dim"] in (-1, len(shape_of(node) or ()) - 1)
    if x is None or first is None or arguments["n"] != 1 or not last or arguments["append"] is not None:
        return None
    step = Affine((), dict(x.coefficients).get(-1, 0))
    at_start = Affine(tuple(item for item in x.coefficients if item[0] != -1), x.constant)
    return step if (at_start - first - step).is_zero() else None


def _cumsum(node: Node, state: Mapping[str, Any]) -> Affine | None:
    """A running sum of zeros is zero."""
    x = affine(node.args[0], state)
    return x if x is not None and x.is_zero() else None


def _equality(node: Node, state: Mapping[str, Any]) -> Affine | None:
    """`a == b` and `a != b` as 1 or 0 where that is the same everywhere."""
    a, b = affine(node.args[0], state), affine(node.args[1], state)
    difference = None if a is None or b is None else a - b
    if difference is None or difference.coefficients or not sympy.sympify(difference.constant).is_Integer:
        return None
    equal = difference.is_zero()
    return Affine((), sympy.Integer(int(equal == is_call(node, aten.eq))))


def _gather(node: Node, state: Mapping[str, Any]) -> Affine | None:
    """`x[i, j]` with indices that are themselves functions of the position."""
    source, indices = node.args[0], node.args[1]
    x = affine(source, state)
    rank = len(shape_of(source) or ())  # type: ignore[arg-type]
    if x is None or not isinstance(indices, (list, tuple)) or len(indices) != rank:
        return None
    result = Affine((), x.constant)
    for axis, coefficient in x.coefficients:
        index = affine(indices[axis], state)
        if index is None or not index.never_negative():
            return None
        result = result + index.times(coefficient)
    return result


_READERS = (
    ((aten.arange,), _arange),
    ((aten.add, aten.sub), _sum),
    ((aten.slice.Tensor,), _slice),
    ((aten.diff,), _diff),
    ((aten.cumsum,), _cumsum),
    ((aten.eq, aten.ne), _equality),
    ((aten.index.Tensor,), _gather),
)
