"""What a pipeline run gives back: the program, the trace, the diff, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphwright.ir.errors import PipelineError
from graphwright.ir.program import Program
from graphwright.passes.trace import Trace


@dataclass(frozen=True)
class Result:
    """Result of `Pipeline.run`.

    Args:
        program: The rewritten program.
        trace: What each pass did.
        checkpoints: The program before each pass that changed it, weights shared.
    """

    program: Program
    trace: Trace
    checkpoints: tuple[Program, ...] = ()

    @property
    def diff(self) -> Any:
        """The graph diff of all passes, grouped; `str()` of it is stable text."""
        return self.trace.diff()

    @property
    def misses(self) -> tuple[Any, ...]:
        """What nearly matched, over all passes."""
        return tuple(miss for record in self.trace.records for miss in record.misses)

    @property
    def original(self) -> Program:
        """The program before the first pass that changed it."""
        return self.checkpoints[0].clone() if self.checkpoints else self.program.clone()

    def undo(self, name: str) -> Program:
        """The program as it was before the last run of pass `name`; later passes are undone with it.

        Raises:
            PipelineError: No pass of this name ran.
        """
        checkpoints = iter(reversed(self.checkpoints))
        for record in reversed(self.trace.records):
            checkpoint = next(checkpoints) if record.changed else None
            if record.name == name or record.name.split("{")[0] == name:
                return (checkpoint or self._after(record)).clone()
        ran = ", ".join(record.name for record in self.trace.records)
        raise PipelineError(f"pass '{name}' did not run", why=f"these ran: {ran}")

    def _after(self, record: Any) -> Program:
        """The program at the end of a pass that changed nothing."""
        position = list(self.trace.records).index(record)
        later = sum(r.changed for r in self.trace.records[position:])
        return self.checkpoints[len(self.checkpoints) - later] if later else self.program
