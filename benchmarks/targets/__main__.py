"""Lower architectures for all targets and write the table: `python -m benchmarks.targets --help`."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.targets.models import NAMES
from benchmarks.targets.report import write_report
from benchmarks.targets.rows import FAILED, Row, append_row, read_rows
from graphwright.lowering.registry import target_names

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "out" / "targets.jsonl"
REPORT = ROOT / "docs" / "targets" / "README.md"


def main(
    only: Annotated[str, typer.Option(help="Models, separated by commas: bert/BertModel,llama+cache.")] = "",
    targets: Annotated[str, typer.Option(help="Targets, separated by commas; all by default.")] = "",
    fresh: Annotated[bool, typer.Option(help="Also what has a row already.")] = False,
    retry: Annotated[bool, typer.Option(help="Also what failed, was wrong or was rejected.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for one architecture on one target.")] = 150.0,
    rows: Annotated[Path, typer.Option(help="JSON lines, one row each; a run goes on where it stopped.")] = ROWS,
    report: Annotated[Path, typer.Option(help="The table to write.")] = REPORT,
) -> None:
    """Which architectures each target takes; one process per architecture."""
    models = [name for name in NAMES if not only or {name, name.partition("/")[0]} & set(only.split(","))]
    labels = targets.split(",") if targets else target_names()
    known = read_rows(rows)
    settled = {
        key for key, row in known.items() if not fresh and not (retry and row.status not in ("verified", "legal"))
    }
    for model in models:
        todo = [label for label in labels if (model, label) not in settled]
        for row in examine(model, todo, timeout) if todo else ():
            append_row(rows, row)
            typer.echo(
                f"{row.model:45} {row.target:10} {row.status:9} {row.seconds:6.1f} s  {row.reason[:100]}", err=True
            )
    write_report(report, read_rows(rows))


def examine(model: str, targets: list[str], timeout: float) -> Iterator[Row]:
    """Rows of one architecture, from a process of its own; what ends that process is a row too."""
    left = list(targets)
    while left:
        for row in _process(model, left, timeout):
            left.remove(row.target)
            yield row
        if left:
            yield Row(model, left.pop(0), FAILED, reason=f"the process ended, or took more than {timeout:.0f} s")


def _process(model: str, targets: list[str], timeout: float) -> Iterator[Row]:
    """Rows until the process ends, or says nothing for too long."""
    command = [sys.executable, "-m", "benchmarks.targets.examine", model, *targets]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    # Unbuffered, so that no line waits in a buffer while the pipe has nothing new to report.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, cwd=ROOT, env=environment
    ) as process:
        while line := _line(process, timeout):
            if line.startswith(b"{"):
                yield Row(**json.loads(line))
        process.kill()


def _line(process: subprocess.Popen[bytes], timeout: float) -> bytes:
    """The next line of a process; empty at its end, or when none comes in time."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() if selector.select(timeout) else b""


if __name__ == "__main__":
    typer.run(main)
