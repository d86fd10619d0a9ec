"""What the commands print: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text


def output() -> Console:
    """Console for results; made at each call, so that it follows a redirected stream."""
    return Console(soft_wrap=True, highlight=False)


def progress_console() -> Console:
    """Console for progress and errors."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


@contextmanager
def step(title: str) -> Iterator[Callable[[str], None]]:
    """Show that a long step is under way, and how long it took once it is done.

    Yields:
        A function that shows what the step is doing at the moment.
    """
    console = progress_console()
    start = time.perf_counter()
    with console.status(f"{title} ...") as status:
        yield lambda detail: status.update(f"{title}: {detail} ...")
    console.print(Text(f"{title}: {time.perf_counter() - start:.1f} s"), style="dim")


def show_error(error: Exception) -> None:
    """Print an error that was raised on purpose, with its notes and without a traceback."""
    console = progress_console()
    console.print(Text("error: ", style="bold red") + Text(str(error)))
    for note in getattr(error, "__notes__", ()):
        console.print(Text(f"  {note}"))


def emit_json(value: Any) -> None:
    """Print a value as JSON, alone on standard output."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def show_text(text: str) -> None:
    """Print text as it is; lines that a diff adds or removes are coloured on a terminal."""
    console = output()
    for line in text.splitlines():
        console.print(Text(line, style=_line_style(line)))


def finish(facts: Any, text: str, ok: bool, as_json: bool) -> NoReturn:
    """Print a verdict, as JSON or as text, and leave with status 0 or 1."""
    if as_json:
        emit_json(facts)
    else:
        show_text(text)
    raise typer.Exit(0 if ok else 1)


def show_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table; the last column wraps."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def _line_style(line: str) -> str:
    mark = line.lstrip()[:2]
    return {"+ ": "green", "- ": "red", "@@": "cyan", "==": "bold"}.get(mark, "")
