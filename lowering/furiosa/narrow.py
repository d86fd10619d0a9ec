"""Integers of 32 bits: the compiler computes on them, and cannot cast those of 64 bits to booleans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from graphwright.ir.errors import GraphwrightError
from graphwright.ir.infer import fake_mode_of, fake_of, infer
from graphwright.ir.node import bound, is_call, value_of
from graphwright.ir.program import Program
from graphwright.ir.signature import Example

aten = torch.ops.aten

WIDE, NARROW = torch.int64, torch.int32
# Sums of integers are of 64 bits unless told otherwise.
_SUMS = (aten.cumsum.default, aten.sum.dim_IntList)


def narrow_integers(program: Program) -> Program:
    """A copy of `program` whose integers, inputs included, have 32 bits; casts to booleans become comparisons.

    Raises:
        GraphwrightError: A weight or constant does not fit into 32 bits; names it.
    """
    copy = program.clone()
    copy.state = {name: _narrowed(value, name) for name, value in copy.state.items()}
    worker = _Narrowing(copy)
    for node in list(copy.graph.nodes):
        worker.visit(node)
    leaves = [_narrowed(leaf, "the captured inputs") for leaf in copy.example.leaves()]
    args, kwargs = pytree.tree_unflatten(leaves, copy.signature.in_spec)
    copy.touch()
    return replace(copy, example=Example(tuple(args), dict(kwargs)))


class _Narrowing:
    """State of one run over a graph whose inputs are narrow already."""

    def __init__(self, program: Program) -> None:
        self.program, self.graph = program, program.graph
        self.mode = fake_mode_of(program.graph)

    def visit(self, node: Node) -> None:
        """Give a node its narrow type."""
        if node.op == "get_attr" and isinstance(self.program.state[str(node.target)], torch.Tensor):
            node.meta["val"] = fake_of(self.mode, self.program.state[str(node.target)])
        elif node.op == "placeholder" and _is_wide(value_of(node)):
            node.meta["val"] = self._fake(value_of(node))
        elif node.op == "call_function":
            self._call(node)

    def _call(self, node: Node) -> None:
        if is_call(node, aten._to_copy) and node.kwargs.get("dtype") == torch.bool:
            node.target, node.args, node.kwargs = aten.ne.Scalar, (node.args[0], 0), {}
        node.kwargs = {name: NARROW if value is WIDE else value for name, value in node.kwargs.items()}
        if is_call(node, *_SUMS) and bound(node)["dtype"] is None and _is_integer(node.args[0]):
            node.kwargs = {**node.kwargs, "dtype": NARROW}
        if is_call(node, aten.view):
            self._make_dense(node)
        node.meta["val"] = infer(self.mode, node.target, node.args, node.kwargs)
        if _is_wide(value_of(node)):
            self._cast(node)

    def _make_dense(self, node: Node) -> None:
        """Copy what a view cannot look into: decompositions may leave other strides than the op that they stand for."""
        try:
            infer(self.mode, node.target, node.args, node.kwargs)
        except (RuntimeError, ValueError):
            options: dict[str, Any] = {"memory_format": torch.contiguous_format}
            with self.graph.inserting_before(node):
                dense = self.graph.call_function(aten.clone.default, (node.args[0],), options)
            dense.meta = {**node.meta, "val": infer(self.mode, dense.target, dense.args, options)}
            node.args = (dense, *node.args[1:])

    def _cast(self, node: Node) -> None:
        """Give the readers of a result that can only be wide a narrow copy of it."""
        with self.graph.inserting_after(node):
            cast = self.graph.call_function(aten._to_copy.default, (node,), {"dtype": NARROW})
        cast.meta = {**node.meta, "val": infer(self.mode, cast.target, cast.args, cast.kwargs)}
        node.replace_all_uses_with(cast, delete_user_cb=lambda user: user is not cast)

    def _fake(self, value: torch.Tensor) -> torch.Tensor:
        with self.mode:
            return torch.empty_strided(value.shape, value.stride(), dtype=NARROW, device=value.device)


def _is_wide(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == WIDE


def _is_integer(node: Any) -> bool:
    value = value_of(node) if isinstance(node, Node) else None
    return isinstance(value, torch.Tensor) and not value.is_floating_point()


def _narrowed(value: Any, name: str) -> Any:
    if not _is_wide(value):
        return value
    limits = torch.iinfo(NARROW)
    if value.numel() and (int(value.min()) < limits.min or int(value.max()) > limits.max):
        raise GraphwrightError(
            f"{name} does not fit into integers of 32 bits",
            why=f"the values are {int(value.min())} to {int(value.max())}",
        )
    return value.to(NARROW)
