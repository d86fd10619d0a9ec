"""`graphwright optimize`: run a pipeline and keep the rewritten program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphwright.cli.console import emit_json, show_table, show_text, step
from graphwright.cli.models import load_program
from graphwright.cli.options import Inputs, Json, Model, OptionalOutput, PipelineText, Static, Task
from graphwright.cli.pipeline import pass_rows, run_pipeline
from graphwright.cli.summary import diff_facts


def optimize(
    model: Model,
    output: OptionalOutput = None,
    pipeline: PipelineText = "default",
    inputs: Inputs = None,
    task: Task = None,
    static: Static = False,
    numerics: Annotated[bool, typer.Option("--numerics", help="Compare values after each pass; stop if off.")] = False,
    dump: Annotated[Path | None, typer.Option(file_okay=False, help="Folder for the trace and each diff.")] = None,
    as_json: Json = False,
) -> None:
    """Rewrite MODEL with a pipeline of verified passes and show what changed."""
    program = load_program(model, inputs, task, static)
    result = run_pipeline(program, pipeline, numerics=numerics, dump=dump)
    if output is not None:
        with step(f"writing {output}"):
            result.program.save(output)
    rows = pass_rows(result)
    if as_json:
        facts = {"passes": rows, "diff": diff_facts(result.diff), "output": str(output) if output else None}
        emit_json(facts)
        return
    show_text(str(result.diff))
    show_table("passes", list(rows[0]) if rows else [], [[str(value) for value in row.values()] for row in rows])
