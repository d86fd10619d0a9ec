"""A bar for the stages of a quantization, on standard error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphwright.passes.quant.calibrate import Progress


@contextmanager
def progress_bar(title: str = "quantizing") -> Iterator[Progress]:
    """Show a bar with the linears that are under way and the time that is left.

    Yields:
        A function to give to a pass as `progress`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)

        def show(done: int, stages: int, paths: Sequence[str]) -> None:
            bar.update(task, completed=done, total=stages, description=f"{title} {paths[0] if paths else ''}")

        yield show
        bar.update(task, completed=bar.tasks[0].total, description=title)
