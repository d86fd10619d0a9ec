"""DumpDir: writes what a pipeline did into a folder."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from graphwright.ir.format import format_diff
from graphwright.ir.program import Program
from graphwright.passes.failure import write_failure
from graphwright.passes.instrument import Instrument
from graphwright.passes.sources import Sources
from graphwright.passes.trace import PassRecord, Trace

if TYPE_CHECKING:
    from graphwright.passes.base import Pass
    from graphwright.passes.result import Result


class DumpDir(Instrument):
    """Writes into `path`: a numbered `NN-pass.diff` per pass, `summary.txt`, `trace.json`, and `index.html`.

    When a pass fails, `failed-<pass>/` has the program it was given, the error, and `reproduce.py`, which fails alone.

    Args:
        path: The folder, made if absent; files of an earlier run are replaced.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._records: list[PassRecord] = []
        self._sources = Sources()

    def start(self, program: Program) -> None:
        """Make the folder and remove the diffs and failures of an earlier run."""
        self._records, self._sources = [], Sources()
        self._sources.collect(program)
        self.path.mkdir(parents=True, exist_ok=True)
        for old in self.path.glob("[0-9][0-9]-*.diff"):
            old.unlink()
        for old in self.path.glob("failed-*/error.txt"):
            shutil.rmtree(old.parent)

    def after_pass(self, pass_: Pass, program: Program, record: PassRecord) -> None:
        """Write the diff of the pass."""
        self._records.append(record)
        if record.changed:
            self._sources.collect(program)
        text = format_diff(record.diff, "full") + "".join(f"# miss: {line}\n" for line in record.miss_lines())
        write_text(self.path / f"{len(self._records):02d}-{_file_name(record.name)}.diff", text)

    def on_failure(self, pass_: Pass, program: Program, error: Exception) -> None:
        """Write the program that the pass was given, the error, a script that reproduces it, and the trace so far."""
        write_failure(self.path / f"failed-{_file_name(str(pass_))}", pass_, program, error)
        self._write(Trace(self._records))

    def finish(self, result: Result) -> None:
        """Write the trace, the summary and the page."""
        self._write(result.trace)

    def _write(self, trace: Trace) -> None:
        trace.sources = self._sources
        write_text(self.path / "trace.json", json.dumps(trace.to_json()))
        write_text(self.path / "index.html", trace.to_html())
        if trace.records:
            write_text(self.path / "summary.txt", format_diff(trace.diff(), "summary"))


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-")


def write_text(path: Path, text: str) -> None:
    """Write a text file all at once: a reader sees the old contents or the new."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
