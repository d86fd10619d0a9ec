"""`graphwright diff`: what a pipeline changes, or how two programs differ."""

from __future__ import annotations

from typing import Annotated

import typer

from graphwright.cli.console import emit_json, show_text
from graphwright.cli.models import load_program
from graphwright.cli.options import Inputs, Json, Model, PipelineText, Static, Task
from graphwright.cli.pipeline import run_pipeline
from graphwright.cli.summary import diff_facts
from graphwright.ir.diff import diff as diff_snapshots
from graphwright.ir.snapshot import Snapshot


def diff(
    model: Model,
    other: Annotated[str | None, typer.Argument(metavar="OTHER", help="A second model.", show_default=False)] = None,
    pipeline: PipelineText = "default",
    inputs: Inputs = None,
    task: Task = None,
    static: Static = False,
    as_json: Json = False,
) -> None:
    """Show what a pipeline changes in MODEL, or how OTHER differs from MODEL (status 1 if it does)."""
    program = load_program(model, inputs, task, static)
    if other is None:
        found = run_pipeline(program, pipeline).diff
    else:
        second = load_program(other, inputs, task, static)
        found = diff_snapshots(Snapshot.of(program), Snapshot.of(second))
    if as_json:
        emit_json(diff_facts(found))
    else:
        show_text(str(found))
    raise typer.Exit(1 if other is not None and found else 0)
