"""`graphwright verify`: compare a model with an artifact, or with what a pipeline makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from graphwright.cli.console import finish, step
from graphwright.cli.models import capture_model, load_model
from graphwright.cli.options import Inputs, Json, Model, PipelineText, Static, Task
from graphwright.cli.pipeline import run_pipeline
from graphwright.cli.summary import comparison_facts, comparisons_facts


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
    from graphwright.lowering.artifact import read_manifest

    manifest = {} if artifact is None else read_manifest(artifact)
    original = load_model(model, task or manifest.get("task") or None)
    candidate: Any
    if artifact is None:
        candidate = run_pipeline(capture_model(original, inputs, task, static), pipeline, numerics=True).program
    elif "parts" in manifest:
        _finish_parts(original, artifact, as_json)
    else:
        candidate = graphwright.load_artifact(artifact)
    with step("comparing"):
        comparison = graphwright.compare(original, candidate, raise_on_mismatch=False)
    finish(comparison_facts(comparison), str(comparison), comparison.ok, as_json)


def _finish_parts(original: Any, folder: Path, as_json: bool) -> NoReturn:
    """Compare each part of a model that was exported for a task."""
    from graphwright.lowering.bundle import load_bundle
    from graphwright.runtime.artifacts.export import verify_bundle

    with step("comparing"):
        comparisons = verify_bundle(original, load_bundle(folder))
    text = "\n".join(f"{name}\n{comparison}" for name, comparison in comparisons.items())
    finish(comparisons_facts(comparisons), text, all(c.ok for c in comparisons.values()), as_json)
