"""`graphwright verify`: compare a model with an artifact, or with what a pipeline makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graphwright.cli.console import finish, step
from graphwright.cli.models import capture_model, load_model
from graphwright.cli.options import Inputs, Json, Model, PipelineText, Static, Task
from graphwright.cli.pipeline import run_pipeline
from graphwright.cli.summary import comparison_facts


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

    original = load_model(model)
    candidate: Any
    if artifact is not None:
        candidate = graphwright.load_artifact(artifact)
    else:
        candidate = run_pipeline(capture_model(original, inputs, task, static), pipeline, numerics=True).program
    with step("comparing"):
        comparison = graphwright.compare(original, candidate, raise_on_mismatch=False)
    finish(comparison_facts(comparison), str(comparison), comparison.ok, as_json)
