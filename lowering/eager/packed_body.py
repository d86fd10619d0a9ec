"""The part of a program after its plan of packed tokens, for a fixed number of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from graphwright.ir.node import bound, is_call
from graphwright.ir.program import Program
from graphwright.ir.rewriter import is_needed
from graphwright.lowering.eager.flat import flat_function
from graphwright.lowering.eager.kernels.packed_plan import chosen_tokens, packed_plan, token_sources, unpack_rows

_OPS = torch.ops.graphwright
_BUCKETS = 128  # of the number of tokens: a batch computes at most a 128th of its size for nothing
_FEWEST = 64


class Body:
    """A program as a function that reads nothing back from the GPU, and what has to be known before and done after.

    Args:
        program: The program with kernels in place.
        folded: Nodes whose values are passed as arguments.

    Attributes:
        is_static: Whether the program has this form.
    """

    def __init__(self, program: Program, folded: Sequence[Node]) -> None:
        plans = [node for node in program.graph.nodes if is_call(node, _OPS.token_plan)]
        effects = any(node.op == "call_function" and is_needed(node) for node in program.graph.nodes)
        left = [node for node in program.graph.nodes if is_call(node, _OPS.varlen_attention, _OPS.unpack_tokens)]
        self.is_static = len(plans) <= 1 and not effects and not left
        self.has_plan = bool(plans)
        self._parts: list[tuple[Node, int]] = []
        if plans and self.is_static:
            arguments = bound(plans[0])
            self._first = bool(arguments["first"])
            self._keep = flat_function(program, results=[arguments["keep"]])
            self._parts = _parts(program, plans[0])
        self._results = [_unpacked(result) for result in program.results]
        flat = [part for parts in self._results for part in parts]
        self.function = flat_function(program, [*folded, *(node for node, _ in self._parts)], results=flat)

    @property
    def plan_size(self) -> int:
        """Number of arguments that are parts of the plan; they come last."""
        return len(self._parts)

    def positions(self, inputs: Sequence[Tensor]) -> int:
        """Batch times length of these inputs; 0 for a program that packs nothing."""
        return self._keep(inputs)[0].numel() if self._parts else 0

    def count(self, inputs: Sequence[Tensor]) -> Tensor:
        """[], int64: how many tokens of these inputs are to be computed, for a program that packs them."""
        return chosen_tokens(self._keep(inputs)[0], self._first).sum()

    def rounded(self, count: int, positions: int) -> int:
        """The number of tokens to compute where `count` of these positions are needed."""
        step = max(positions // _BUCKETS, _FEWEST)
        return min(max(-(-count // step), 1) * step, positions)

    def size(self, inputs: Sequence[Tensor]) -> int:
        """The number of tokens to compute for these inputs, rounded up; 0 for a program that packs nothing."""
        return self.rounded(int(self.count(inputs)), self.positions(inputs)) if self._parts else 0

    def plan(self, inputs: Sequence[Tensor], size: int) -> list[Tensor]:
        """Further arguments of the function."""
        if not self._parts:
            return []
        plan = packed_plan(self._keep(inputs)[0], size, self._first)
        return [plan[i] for _, i in self._parts]

    def finish(self, flat: Sequence[Any], copy: bool) -> tuple[Any, ...]:
        """The program's results from those of the function.

        Args:
            flat: What the function returned.
            copy: Its results lie in memory that will be used again.
        """
        left = iter(flat)
        results = []
        for parts in self._results:
            values = [next(left) for _ in parts]
            if len(parts) > 1:
                results.append(unpack_rows(*values))
            else:
                results.append(values[0].clone() if copy and isinstance(values[0], Tensor) else values[0])
        return tuple(results)


def _parts(program: Program, plan: Node) -> list[tuple[Node, int]]:
    """What is used of a plan, and which of the results of `packed_plan` it is."""
    parts = [(node, int(node.args[1])) for node in plan.users]  # type: ignore[arg-type]
    tokens = [node for node, i in parts if i == 0]
    sources = [node for node in program.graph.nodes if node.target is token_sources and node.args[0] in tokens]
    return parts + [(node, 4) for node in sources]


def _unpacked(result: Any) -> tuple[Any, ...]:
    """A result, or the arguments of `unpack_rows` that make it."""
    is_packed = isinstance(result, Node) and result.target is unpack_rows
    return tuple(result.args) if is_packed else (result,)
