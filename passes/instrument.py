"""Base of the watchers of a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphwright.ir.program import Program
from graphwright.ir.record import Rewrite

if TYPE_CHECKING:
    from graphwright.passes.base import Pass
    from graphwright.passes.result import Result
    from graphwright.passes.trace import PassRecord


class Instrument:
    """Watches a pipeline run; override the hooks that matter.

    An exception from `after_pass` stops the pipeline and undoes the pass.
    """

    def start(self, program: Program) -> None:
        """Called once with the program, before the first pass."""

    def before_pass(self, pass_: Pass, program: Program) -> None:
        """Called before each pass."""

    def on_rewrite(self, rewrite: Rewrite) -> None:
        """Called for each committed rewrite, during the pass."""

    def after_pass(self, pass_: Pass, program: Program, record: PassRecord) -> None:
        """Called after each pass, also if it changed nothing."""

    def on_failure(self, pass_: Pass, program: Program, error: Exception) -> None:
        """Called when a pass or an `after_pass` raised; `program` is as it was before the pass."""

    def finish(self, result: Result) -> None:
        """Called once after the last pass."""
