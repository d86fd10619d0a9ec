"""`graphwright diff`: what a pipeline changes, or how two programs, ONNX models or artifacts differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphwright.cli.console import emit_json, show_text
from graphwright.cli.models import load_program
from graphwright.cli.options import Inputs, Json, Model, PipelineText, Static, Task
from graphwright.cli.pipeline import run_pipeline
from graphwright.cli.summary import diff_facts
from graphwright.ir.diff import diff as diff_snapshots
from graphwright.ir.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from graphwright.ir.diff import GraphDiff
    from graphwright.ir.program import Program

OTHER_HELP = "What to compare with: a second model, the folder of an artifact, or an .onnx file."


def diff(
    model: Model,
    other: Annotated[str | None, typer.Argument(metavar="OTHER", help=OTHER_HELP, show_default=False)] = None,
    pipeline: PipelineText = "default",
    inputs: Inputs = None,
    task: Task = None,
    static: Static = False,
    as_json: Json = False,
) -> None:
    """Show what a pipeline changes in MODEL, or how OTHER differs from it by structure (status 1 if it does).

    MODEL and OTHER may both be .onnx files or artifacts. For a model and the artifact made from it, show what each
    node became (status 0).
    """

    def load(text: str) -> Program:
        return load_program(text, inputs, task, static)

    if other is None:
        _show(run_pipeline(load(model), pipeline).diff, as_json)
    elif _is_artifact(other) and not _is_lowered(model):
        from graphwright.lowering.artifact import load_artifact
        from graphwright.lowering.lowered import lowering_diff

        _show(lowering_diff(load(model), load_artifact(other)), as_json)
    elif _is_lowered(model) != _is_lowered(other):
        raise typer.BadParameter("a model is compared with the folder of an artifact: name the model first")
    else:
        found = diff_snapshots(_snapshot(model, load), _snapshot(other, load))
        _show(found, as_json)
        raise typer.Exit(1 if found else 0)


def _show(found: GraphDiff, as_json: bool) -> None:
    if as_json:
        emit_json(diff_facts(found))
    else:
        show_text(str(found))


def _is_artifact(text: str) -> bool:
    return (Path(text) / "manifest.json").is_file()


def _is_lowered(text: str) -> bool:
    return text.endswith(".onnx") or _is_artifact(text)


def _snapshot(text: str, load: Callable[[str], Program]) -> Snapshot:
    """Picture of an ONNX file, an artifact, or a model."""
    if text.endswith(".onnx"):
        from graphwright.lowering.onnx.snapshot import read_onnx

        return read_onnx(text)
    if _is_artifact(text):
        from graphwright.lowering.artifact import load_artifact

        return load_artifact(text).snapshot()
    return Snapshot.of(load(text))
