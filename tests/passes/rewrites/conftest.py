from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from graphwright.ir.program import Program
from graphwright.passes.numerics import difference
from graphwright.passes.pipeline import Pipeline
from graphwright.passes.result import Result
from graphwright.passes.validate import Validate

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass
class Rewritten:
    """What a pipeline made of a program: how often each rule fired, the misses, the largest relative difference."""

    result: Result
    fired: Counter[str]
    error: float

    @property
    def program(self) -> Program:
        return self.result.program

    @property
    def reasons(self) -> str:
        return "\n".join(str(miss) for miss in self.result.misses)

    def ops(self, name: str) -> int:
        return sum(f".{name}." in f".{node.target}." for node in self.program.nodes if node.op == "call_function")


def check_equal(program: Program, other: Program, *args: Any, **kwargs: Any) -> float:
    """Run both on the same arguments and compare, to the tolerance of the dtype; returns the largest error."""
    with torch.no_grad():
        expected, actual = (pytree.tree_leaves(one.run(*args, **kwargs)) for one in (program, other))
    worst = 0.0
    for a, b in zip(expected, actual, strict=True):
        reason, error = difference(a, b, TOLERANCE.get(getattr(a, "dtype", None), 0.0), 0.0)
        assert reason is None, reason
        worst = max(worst, error)
    return worst


@pytest.fixture
def rewrite() -> Callable[..., Rewritten]:
    """rewrite(program, passes): canonicalize, run the passes with Validate, compare the results."""

    def run(program: Program, passes: str) -> Rewritten:
        result = Pipeline(f"canonicalize,{passes}").run(program, [Validate()])
        records = result.trace.records[1:]
        fired = Counter(rewrite.rule for record in records for rewrite in record.rewrites)
        error = check_equal(program, result.program, *program.example.args, **program.example.kwargs)
        return Rewritten(result, fired, error)

    return run
