"""`graphwright verify`: compare a model with an artifact, or with what a pipeline makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graphwright.cli.console import step
from graphwright.cli.models import load_program
from graphwright.cli.options import Inputs, Json, Model, PipelineText, Static, Task
from graphwright.cli.pipeline import run_pipeline


def verify(
    model: Model,
    artifact: Annotated[
        Path | None,
        typer.Argument(
            metavar="ARTIFACT", exists=True, file_okay=False, help="Folder of an artifact.", show_default=False
        ),
    ] = None,
    pipeline: PipelineText = "default",
    inputs: Inputs = None,
    task: Task = None,
    static: Static = False,
    as_json: Json = False,
) -> None:
    """Compare ARTIFACT with MODEL on several shapes and paddings; without ARTIFACT, what a pipeline makes of MODEL."""
    import graphwright

    program = load_program(model, inputs, task, static)
    candidate: Any
    if artifact is not None:
        candidate = graphwright.load_artifact(artifact)
    else:
        candidate = run_pipeline(program, pipeline, numerics=True).program
    with step("comparing"):
        report = graphwright.compare(program, candidate, raises=False)
