"""`graphwright export`: lower a model to a target and check the result against it."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from graphwright.cli.console import emit_json, show_text, step
from graphwright.cli.models import load_program
from graphwright.cli.options import Inputs, Json, Model, Output, PipelineText, Static, TargetText, Task
from graphwright.cli.pipeline import run_pipeline


def export(
    model: Model,
    output: Output,
    target: TargetText = "onnx",
    pipeline: PipelineText = "default",
    inputs: Inputs = None,
    task: Task = None,
    static: Static = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what the target does not support.")] = False,
    verify: Annotated[bool, typer.Option(help="Compare the artifact with the captured program.")] = True,
    as_json: Json = False,
) -> None:
    """Rewrite MODEL, lower it to a target, and compare the artifact with the captured program."""
    import graphwright

    goal = graphwright.target(target)
    program = load_program(model, inputs, task, static)
    rewritten = run_pipeline(program, pipeline).program
    report = goal.check(rewritten)
    facts = {
        "target": str(goal),
        "supported": report.ok,
        "unsupported": list(map(dataclasses.asdict, report.unsupported)),
    }
    if not report.ok or dry_run:
        emit_json(facts) if json else show_text(str(report))
        raise typer.Exit(0 if report.ok else 1)
    with step(f"lowering to {goal}"):
        artifact = goal.lower(rewritten)
    if verify:
        with step("comparing"):
            comparison = graphwright.compare(program, artifact)
    with step(f"writing {output}"):
        artifact.save(output)
