"""The instruments that come with Graphwright: Timing, VerifyEach, DumpDir, Numerics."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from graphwright.ir.program import Program
from graphwright.ir.verify import verify
from graphwright.passes.dump import DumpDir
from graphwright.passes.instrument import Instrument
from graphwright.passes.numerics import Numerics

if TYPE_CHECKING:
    from graphwright.passes.base import Pass
    from graphwright.passes.trace import PassRecord

__all__ = ["DumpDir", "Instrument", "Numerics", "Timing", "VerifyEach"]


class Timing(Instrument):
    """Collects the time of each pass; print it to see a table."""

    def __init__(self) -> None:
        self.records: list[PassRecord] = []

    def start(self, program: Program) -> None:
        """Forget an earlier run."""
        self.records = []

    def after_pass(self, pass_: Pass, program: Program, record: PassRecord) -> None:
        """Keep the record."""
        self.records.append(record)

    @property
    def seconds(self) -> float:
        """Time of all passes."""
        return sum(record.seconds for record in self.records)

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table("pass", "nodes", "rewrites", "ms", "share")
        for column in table.columns[1:]:
            column.justify = "right"
        for record in self.records:
            nodes = f"{len(record.before.nodes)} -> {len(record.after.nodes)}"
            share = f"{record.seconds / self.seconds:.0%}" if self.seconds else ""
            table.add_row(record.name, nodes, str(len(record.rewrites)), f"{1000 * record.seconds:.1f}", share)
        return table

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=120).print(self)
        return text.getvalue()


class VerifyEach(Instrument):
    """Checks the program after each pass that changed it.

    A violation raises `VerifyError`, which stops the pipeline.
    """

    def after_pass(self, pass_: Pass, program: Program, record: PassRecord) -> None:
        """Verify the program."""
        if record.changed:
            verify(program)
