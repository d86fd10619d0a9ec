"""Running a pipeline with progress on standard error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graphwright.cli.console import step
from graphwright.passes.instruments import Instrument

if TYPE_CHECKING:
    from collections.abc import Callable

    from graphwright.ir.program import Program
    from graphwright.passes.base import Pass
    from graphwright.passes.result import Result


class Progress(Instrument):
    """Says which pass is running."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show

    def before_pass(self, pass_: Pass, program: Program) -> None:
        """Show the pass that comes next."""
        self._show(str(pass_))


def run_pipeline(program: Program, text: str, *, numerics: bool = False, dump: Path | None = None) -> Result:
    """Run a pipeline on a copy of `program`.

    Args:
        program: The program; stays as it is.
        text: Pipeline text.
        numerics: Run the example inputs after each changing pass, and stop at the first that diverges.
        dump: Folder for the trace and the numbered diffs.
    """
    import graphwright

    watchers: list[Instrument] = []
    if numerics:
        watchers.append(graphwright.Numerics())
    if dump is not None:
        watchers.append(graphwright.DumpDir(dump))
    pipeline = graphwright.Pipeline(text)
    with step("rewriting") as show:
        return pipeline.run(program, instruments=[Progress(show), *watchers])


def pass_rows(result: Result) -> list[dict[str, object]]:
    """One row for each pass that ran: name, nodes before and after, rewrites, misses, milliseconds."""
    return [
        {
            "pass": record.name,
            "nodes_before": len(record.before.nodes),
            "nodes_after": len(record.after.nodes),
            "rewrites": len(record.rewrites),
            "misses": len(record.misses),
            "ms": round(1000 * record.seconds, 1),
        }
        for record in result.trace.records
    ]
