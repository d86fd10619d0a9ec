"""`graphwright bisect`: the first rewrite of a pipeline that makes the results wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphwright.cli.console import finish, step
from graphwright.cli.models import load_program
from graphwright.cli.options import Inputs, Json, Model, PipelineText, Static, Task

if TYPE_CHECKING:
    from graphwright.passes.bisect import FirstBad


def bisect(
    model: Model,
    pipeline: PipelineText = "default",
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="Folder for the reproducer of a bad rewrite.")
    ] = Path("reproducer"),
    inputs: Inputs = None,
    task: Task = None,
    static: Static = False,
    as_json: Json = False,
) -> None:
    """Find the first rewrite after which MODEL's results are off, and write a reproducer (status 1 if there is one)."""
    from graphwright.passes.bisect import bisect as search
    from graphwright.passes.pipeline import Pipeline
    from graphwright.passes.reproduce import write_reproducer

    program = load_program(model, inputs, task, static)
    with step("bisecting"):
        found = search(program, Pipeline(pipeline))
    if found is None:
        finish({"found": False}, "every rewrite keeps the results", True, as_json)
    with step(f"writing {output}"):
        script = write_reproducer(found, output)
    text = f"{found}\n\n{found.hunk}\nreproducer: python {script}"
    finish(_facts(found) | {"reproducer": str(script)}, text, False, as_json)


def _facts(found: FirstBad) -> dict[str, Any]:
    """The finding as JSON-ready data."""
    rewrite = found.rewrite
    return {
        "found": True,
        "pass": rewrite.pass_name,
        "rule": rewrite.rule,
        "site": rewrite.site,
        "source": rewrite.source,
        "number": found.index + 1,
        "rewrites": found.total,
        "reason": found.reason,
        "first_different": found.node,
        "hunk": found.hunk,
    }
