"""Results that a graph returns as 0 where the inputs are padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.node import is_call
from graphwright.ir.program import Program
from graphwright.lowering.eager.flat import flat_function

ops = torch.ops.graphwright


class ZeroedResults:
    """Brings the results of an original to the form that `remove-padding` gives them.

    Args:
        program: The program after all passes.
    """

    def __init__(self, program: Program) -> None:
        found = {i: keep for i, node in enumerate(program.results) if (keep := _keep_of(node)) is not None}
        self.places = tuple(found)
        self._masks = flat_function(program, results=tuple(found.values())) if found else None

    def __call__(self, results: Sequence[Any], inputs: Sequence[torch.Tensor]) -> list[Any]:
        """The results with 0 at the positions that are padding in these inputs."""
        zeroed = list(results)
        if self._masks is not None:
            for i, keep in zip(self.places, self._masks(inputs), strict=True):
                zeroed[i] = ops.zero_padding(zeroed[i], keep)
        return zeroed


def _keep_of(node: Any) -> Node | None:
    """Which tokens are real, for a result made of packed tokens or zeroed at padding; None for any other."""
    if is_call(node, ops.zero_padding):
        return node.args[1]
    if not is_call(node, ops.unpack_tokens):
        return None
    plan = node.args[1].args[0]
    return plan.args[0] if is_call(plan, ops.token_plan) else None
