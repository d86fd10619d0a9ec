"""Bisection: the first rewrite that makes a program wrong.

Passes are deterministic, so the first k rewrites of a pipeline are had by running it again and stopping after k; binary
search over k finds the first one after which the results are off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch.fx import Node

from graphwright.ir.diff import Hunk
from graphwright.ir.errors import GraphwrightError
from graphwright.ir.format import format_hunk
from graphwright.ir.program import Program
from graphwright.ir.record import Rewrite
from graphwright.ir.region import extract, inputs_of
from graphwright.ir.rewriter import Rewriter
from graphwright.passes.base import Pass, pass_name
from graphwright.passes.numerics import difference, run_example, values_of
from graphwright.passes.pipeline import Pipeline, Repeat

Check = Callable[[Program], str | None]


@dataclass(frozen=True)
class FirstBad:
    """The rewrite that a bisection found.

    Args:
        index: Position among all rewrites of the pipeline, from 0.
        total: Number of rewrites.
        rewrite: The record of the rewrite.
        reason: How the results are off after it.
        before: The program before it.
        after: The program after it.
        node: First value, in execution order, that differs between the two, or None.
    """

    index: int
    total: int
    rewrite: Rewrite
    reason: str
    before: Program
    after: Program
    node: str | None

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.rewrite.site, self.rewrite.source) if part)
        lines = [
            f"first bad rewrite: {self.rewrite.rule} of pass '{self.rewrite.pass_name}'"
            f" (number {self.index + 1} of {self.total})" + (f" at {place}" if place else ""),
            f"  {self.reason}",
        ]
        if self.node:
            lines.append(f"  first value that differs: %{self.node}")
        return "\n".join(lines)

    @property
    def hunk(self) -> str:
        """The rewrite as the text of a diff."""
        return format_hunk(Hunk((self.rewrite,)))

    def region(self) -> tuple[Program, Program]:
        """The region before and after the rewrite, each a program of its own on the values seen in the run.

        Raises:
            GraphwrightError: The rewrite replaced no value, so it has no region.
        """
        replaced = [(old, new) for old, new in self.rewrite.replaced if not new.lstrip("-").isdigit()]
        if not replaced:
            raise GraphwrightError(f"rewrite {self.rewrite.rule} replaced no value")
        old_nodes, new_nodes = _by_name(self.before), _by_name(self.after)
        removed = [old_nodes[record.name] for record in self.rewrite.removed if record.name in old_nodes]
        results = [old_nodes[old] for old, _ in replaced]
        inside = [node for node in {*removed, *results} if node.op == "call_function"]
        inputs = inputs_of(inside)
        values = values_of(self.before)
        example = [values[node.name] for node in inputs]
        before = extract(self.before, results, inputs, example)
        same = [new_nodes[node.name] for node in inputs if node.name in new_nodes]
        after = extract(self.after, [new_nodes[new] for _, new in replaced], same, [values[n.name] for n in same])
        return before, after


def bisect(program: Program, pipeline: Pipeline, check: Check | None = None) -> FirstBad | None:
    """Find the first rewrite of `pipeline` after which `program` is wrong.

    Args:
        program: The original; it stays as it is.
        pipeline: The passes to run.
        check: Says what is wrong with a program, None if nothing; by default, the example inputs are run and the
            results compared with the original's.

    Returns:
        The rewrite, or None if the final program passes the check.

    Raises:
        GraphwrightError: The original itself does not pass the check.
    """
    check = check or same_results(program)
    reason = check(program)
    if reason:
        raise GraphwrightError("the original does not pass the check itself", why=reason)
    whole, rewrites = run_partly(program, pipeline, None)
    if not check(whole):
        return None
    low, high = 0, len(rewrites)
    if not high or not check(run_partly(program, pipeline, high)[0]):
        raise GraphwrightError(
            "the result is wrong, but no recorded rewrite made it so",
            why=check(whole),
            remedies=["look for untracked edits in the diff: a pass changes the graph without the Rewriter"],
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if check(run_partly(program, pipeline, middle)[0]) else (middle, high)
    before, after = run_partly(program, pipeline, low)[0], run_partly(program, pipeline, high)[0]
    rewrite = rewrites[high - 1]
    return FirstBad(
        high - 1, len(rewrites), rewrite, str(check(after)), before, after, _first_difference(before, after, rewrite)
    )


def same_results(program: Program) -> Check:
    """A check that runs the example inputs of `program` and compares with its results."""
    expected = run_example(program)

    def check(candidate: Program) -> str | None:
        for i, (a, b) in enumerate(zip(expected, run_example(candidate), strict=True)):
            reason, _ = difference(a, b, None, 1e-6)
            if reason:
                return f"result {i}: {reason}"
        return None

    return check


class _Enough(Exception):
    """Raised when as many rewrites were made as wanted."""


def run_partly(program: Program, pipeline: Pipeline, count: int | None) -> tuple[Program, list[Rewrite]]:
    """A copy of the program after the first `count` rewrites of a pipeline (all of them for None)."""
    copy, rewrites = program.clone(), list[Rewrite]()

    def sink(rewrite: Rewrite) -> None:
        rewrites.append(rewrite)
        if len(rewrites) == count:
            raise _Enough

    if count == 0:
        return copy, rewrites
    try:
        for pass_ in pipeline.passes:
            _run(pass_, copy, sink)
    except _Enough:
        pass
    copy.touch()
    return copy, rewrites


def _run(pass_: Pass, program: Program, sink: Callable[[Rewrite], None]) -> bool:
    """Run a pass, or those of a Repeat until nothing is rewritten; True if anything was."""
    if isinstance(pass_, Repeat):
        rounds = 0
        while rounds < pass_.times and any([_run(inner, program, sink) for inner in pass_.body]):
            rounds += 1
        return rounds > 0
    revision = program.revision
    pass_.apply(program, Rewriter(program, sink, pass_name(pass_)))
    program.invariants = (program.invariants - pass_.breaks) | pass_.establishes
    return program.revision != revision


def _first_difference(before: Program, after: Program, rewrite: Rewrite) -> str | None:
    """The first value that differs, through the values that the rewrite replaced."""
    old, new, renamed = values_of(before), values_of(after), dict(rewrite.replaced)
    for name, value in old.items():
        other = renamed.get(name, name)
        if other in new and difference(value, new[other], None, 1e-6)[0]:
            return other
    return None


def _by_name(program: Program) -> dict[str, Node]:
    return {node.name: node for node in program.graph.nodes}
