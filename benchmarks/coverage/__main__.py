"""Examine architectures and write the table: `python -m benchmarks.coverage --help`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.coverage.architectures import architectures
from benchmarks.coverage.pool import Limits, examine_all
from benchmarks.coverage.report import write_report
from benchmarks.coverage.rows import Row, append_row, read_rows, write_rows

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "out" / "coverage.jsonl"
REPORT = ROOT / "docs" / "coverage.md"


def main(
    only: Annotated[str, typer.Option(help="Model types or classes, separated by commas: bert,gpt2.")] = "",
    jobs: Annotated[int, typer.Option(help="Processes at a time, one thread each.")] = 2,
    fresh: Annotated[bool, typer.Option(help="Examine again what has a row already.")] = False,
    every: Annotated[bool, typer.Option(help="Also the heads that add nothing to an examined body.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for one architecture.")] = 120.0,
    memory: Annotated[float, typer.Option(help="Gigabytes of address space for one architecture.")] = 8.0,
    rows: Annotated[Path, typer.Option(help="JSON lines: one row each; a run goes on where it stopped.")] = ROWS,
    report: Annotated[Path, typer.Option(help="The table to write.")] = REPORT,
) -> None:
    """Examine the architectures of transformers: captured, fused, equal to the original?

    Example: python -m benchmarks.coverage --only bert,gpt2 --fresh
    """
    wanted = [name for name in only.split(",") if name]
    chosen = architectures(wanted, every=every)
    if not chosen:
        raise typer.BadParameter(f"no architecture is called {only}", param_hint="--only")
    known = read_rows(rows)
    todo = [item for item in chosen if fresh or str(item) not in known]
    random.Random(0).shuffle(todo)  # so that an unfinished run says something about all families
    for row in _progress(examine_all(todo, jobs, Limits(timeout, memory)), len(todo)):
        append_row(rows, row)
        known[row.key] = row
    if known:
        write_rows(rows, known.values())
    write_report(report, list(known.values()))
    typer.echo(f"{len(todo)} examined, {len(known)} in {report}")
    if any(row.wrong for row in known.values()):
        raise typer.Exit(1)


def _progress(found: Iterable[Row], total: int) -> Iterator[Row]:
    """The rows, with a bar that counts them by status."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    counts: Counter[str] = Counter()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        for row in found:
            counts[_label(row)] += 1
            text = ", ".join(f"{count} {label}" for label, count in sorted(counts.items()))
            bar.update(task, advance=1, description=text)
            if row.wrong:
                bar.console.print(f"{row.key}: wrong: {row.wrong}")
            yield row


def _label(row: Row) -> str:
    if row.wrong:
        return "wrong"
    return "unfused" if row.misses else row.status


if __name__ == "__main__":
    typer.run(main)
