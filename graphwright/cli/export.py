"""`graphwright export`: lower a model to a target and check the result against it."""

from __future__ import annotations

from typing import Annotated

import typer

from graphwright.cli.console import finish, step
from graphwright.cli.models import capture_model, load_model
from graphwright.cli.options import Inputs, Json, Model, OptionalOutput, PipelineText, Static, TargetText, Task
from graphwright.cli.pipeline import run_pipeline
from graphwright.cli.summary import comparison_facts, support_facts


def export(
    model: Model,
    output: OptionalOutput = None,
    target: TargetText = "onnx",
    pipeline: PipelineText = "default",
    inputs: Inputs = None,
    task: Task = None,
    static: Static = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what the target does not support.")] = False,
    verify: Annotated[bool, typer.Option(help="Compare the artifact with the unmodified model.")] = True,
    as_json: Json = False,
) -> None:
    """Rewrite MODEL, lower it to a target, and compare the artifact with the unmodified model."""
    import graphwright

    if output is None and not dry_run:
        raise typer.BadParameter("where to? name a folder with --output, or ask for a --dry-run")
    goal = graphwright.target(target)
    original = load_model(model)
    rewritten = run_pipeline(capture_model(original, inputs, task, static), pipeline).program
    with step(f"checking for {goal}"):
        support = goal.check(rewritten)
    facts = {"target": str(goal)} | support_facts(support)
    if dry_run or output is None or not support.ok:
        finish(facts, str(support), support.ok, as_json)
    with step(f"lowering to {goal}"):
        artifact = goal.lower(rewritten)
    text = str(support)
    if verify:
        with step("comparing"):
            comparison = graphwright.compare(original, artifact, raise_on_mismatch=False)
        facts |= comparison_facts(comparison)
        text += f"\n{comparison}"
        if not comparison.ok:
            finish(facts, text, False, as_json)
    with step(f"writing {output}"):
        artifact.save(output)
    finish(facts | {"output": str(output)}, text, True, as_json)
