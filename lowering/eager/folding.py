"""Weight expressions: what a program computes from weights alone is computed once and kept until a weight changes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch.fx import Node

from graphwright.ir.program import Program
from graphwright.ir.rewriter import is_needed
from graphwright.ir.views import is_view
from graphwright.lowering.eager.flat import FlatFunction, flat_function, weight_function
from graphwright.lowering.eager.kernels.place import place_kernels
from graphwright.lowering.eager.linears import REORDER, LinearMode, place_linears
from graphwright.lowering.eager.masks import share_masks
from graphwright.lowering.eager.narrow import narrow
from graphwright.lowering.eager.packed.cpu import PackedMode
from graphwright.lowering.eager.packed.place import place_packed
from graphwright.lowering.eager.watch import WeightWatch

FoldMode = Literal["all", "views", "never"]


class FoldedFunction:
    """A flat function that keeps the values of the program's weight expressions.

    It has three bodies, each compiled when it is first needed. Where autograd records and a weight is trained, the
    expressions are computed anew, so that gradients reach the weights. Where autograd does not record, the expressions
    are kept and linears run in their fastest form. In between, the expressions are kept.

    Args:
        program: The program.
        mode: Which expressions to keep: `all`, those that only look into a weight (`views`), or `never`. A kept value
            is computed again when a weight changes; see `WeightWatch`.
        linear: The forms of linears to choose from.
        dtype: What to compute float32 products in where autograd does not record; None for float32.
        packed: What kernels of packed linears may do.
        fuse: Use kernels of our own for linears and norms in half precision on a GPU.
    """

    def __init__(
        self,
        program: Program,
        mode: FoldMode,
        linear: LinearMode = "mkl",
        dtype: torch.dtype | None = None,
        packed: PackedMode = "auto",
        fuse: bool = True,
    ) -> None:
        self.program, self.mode = program, mode
        if linear == "packed" and mode == "never":
            linear = "auto"  # a reordered weight is a kept expression
        is_functional = "functional" in program.invariants  # otherwise a value may change before it is used
        fast = narrow(program, dtype) if dtype is not None and is_functional else program
        fast = share_masks(place_linears(fast, linear)) if is_functional else fast
        fast = place_kernels(fast, fuse=fuse) if is_functional and find_spec("triton") is not None else fast
        self._fast_program = place_packed(fast, packed)

    @property
    def fast_program(self) -> Program:
        """The program in the form that runs where autograd does not record."""
        return self._fast_program

    @cached_property
    def plain(self) -> FlatFunction:
        """Everything is computed at each call, on the weights themselves, with ATen's ops."""
        return flat_function(self.program)

    @cached_property
    def _folded(self) -> _Folded:
        return _Folded(self.program, self.mode)

    @cached_property
    def _fast(self) -> _Folded:
        return self._folded if self._fast_program is self.program else _Folded(self._fast_program, self.mode)

    def __call__(self, inputs: Sequence[torch.Tensor]) -> tuple[Any, ...]:
        """Run on the tensor inputs; returns the flat results."""
        if torch.is_grad_enabled():
            return self.plain(inputs) if self._folded.is_trained() else self._folded(inputs)
        return self._fast(inputs) if not torch._C._is_any_autocast_enabled() else self._folded(inputs)


class _Folded:
    """A flat function and the kept values of its weight expressions."""

    def __init__(self, program: Program, mode: FoldMode) -> None:
        nodes = weight_expressions(program, mode)
        self.function = flat_function(program, nodes)
        self._expressions = weight_function(program, nodes) if nodes else None
        weights = self._expressions.weights if self._expressions is not None else ()
        self._watch = WeightWatch(weights, sample=not all(map(is_view, nodes)))
        self._values: Sequence[torch.Tensor] = ()

    def __call__(self, inputs: Sequence[torch.Tensor]) -> tuple[Any, ...]:
        if self._expressions is not None and self._watch.changed():
            with torch.inference_mode(False), torch.no_grad():
                self._values = self._expressions(())
        return self.function(inputs, self._values)

    def is_trained(self) -> bool:
        """Whether a weight that an expression depends on needs a gradient."""
        return self._expressions is not None and any(weight.requires_grad for weight in self._expressions.weights)


def weight_expressions(program: Program, mode: FoldMode) -> list[Node]:
    """The largest expressions of weights alone; results of the program are not among them."""
    if mode == "never" or "functional" not in program.invariants:
        return []
    inside: set[Node] = set()
    for node in program.graph.nodes:
        if node.op == "get_attr" or (_is_foldable(node, mode) and set(node.all_input_nodes) <= inside):
            inside.add(node)
    calls = [node for node in program.graph.nodes if node in inside and node.op == "call_function"]
    return [node for node in calls if any(user not in inside for user in node.users) and not _is_result(node)]


def _is_foldable(node: Node, mode: FoldMode) -> bool:
    value = node.meta.get("val")
    return (
        node.op == "call_function"
        and isinstance(node.target, torch._ops.OpOverload)
        and isinstance(value, torch.Tensor)
        and all(isinstance(size, int) for size in value.shape)
        and bool(node.all_input_nodes)
        and not is_needed(node)
        and torch.Tag.nondeterministic_seeded not in node.target.tags
        and (mode == "all" or is_view(node) or node.target is REORDER)
    )


def _is_result(node: Node) -> bool:
    return any(user.op == "output" for user in node.users)
