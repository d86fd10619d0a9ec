"""Weight expressions: what a program computes from weights alone is computed once and kept until a weight changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch.fx import Node

from graphwright.ir.program import Program
from graphwright.ir.rewriter import is_needed
from graphwright.ir.views import is_view
from graphwright.lowering.eager.flat import FlatFunction, flat_function, weight_function

FoldMode = Literal["all", "views", "never"]


class FoldedFunction:
    """A flat function that keeps the values of the program's weight expressions.

    Where autograd records and an expression depends on a trained weight, the expressions are computed anew, so that
    gradients reach the weights.

    Args:
        program: The program.
        mode: Which expressions to keep: `all`, those that only look into a weight (`views`), or `never`. A kept value
            is computed again when a weight's memory, type or version counter changes; writing through
            `weight.data` does not raise the counter, and only `views` follows even that.
    """

    def __init__(self, program: Program, mode: FoldMode) -> None:
        nodes = weight_expressions(program, mode)
        self.plain = flat_function(program)
        self._folded = flat_function(program, nodes) if nodes else self.plain
        self._expressions = weight_function(program, nodes) if nodes else None
        self._values: Sequence[torch.Tensor] = ()
        self._token: Any = None

    def __call__(self, inputs: Sequence[torch.Tensor]) -> tuple[Any, ...]:
        """Run on the tensor inputs; returns the flat results."""
        expressions = self._expressions
        if expressions is None or (torch.is_grad_enabled() and any(w.requires_grad for w in expressions.weights)):
            return self.plain(inputs)
        return self._folded(inputs, self._current(expressions))

    def _current(self, expressions: FlatFunction) -> Sequence[torch.Tensor]:
        token = [(w.data_ptr(), w._version, w.dtype, w.device) for w in expressions.weights]
        if token != self._token:
            with torch.inference_mode(False), torch.no_grad():
                self._values = expressions(())
            self._token = token
        return self._values


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
        and (mode == "all" or is_view(node))
    )


def _is_result(node: Node) -> bool:
    return any(user.op == "output" for user in node.users)
