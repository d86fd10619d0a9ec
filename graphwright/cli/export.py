"""`graphwright export`: lower a model to a target and check the result against it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphwright.cli.console import finish, step
from graphwright.cli.inputs import parse_inputs
from graphwright.cli.models import load_model
from graphwright.cli.options import Inputs, Json, Model, OptionalOutput, PipelineText, Static, TargetText, Task
from graphwright.cli.summary import comparisons_facts, support_facts

if TYPE_CHECKING:
    from graphwright.lowering.support import SupportReport
    from graphwright.lowering.target import Target


def export(
    model: Model,
    folder: Annotated[
        Path | None, typer.Argument(metavar="OUT", file_okay=False, help="Folder to write to.", show_default=False)
    ] = None,
    output: OptionalOutput = None,
    target: TargetText = "onnx",
    pipeline: PipelineText = "default",
    inputs: Inputs = None,
    task: Task = None,
    static: Static = False,
    dtype: Annotated[
        str | None, typer.Option(help="float16 or bfloat16, where the target has it.", show_default=False)
    ] = None,
    dialect: Annotated[
        str | None, typer.Option(help="Operators beyond the standard's, such as ort.", show_default=False)
    ] = None,
    last_logits: Annotated[
        bool, typer.Option("--last-logits", help="Text generation: only the logits that the next token needs.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what the target does not support.")] = False,
    verify: Annotated[bool, typer.Option(help="Compare the artifact with the unmodified model.")] = True,
    as_json: Json = False,
) -> None:
    """Rewrite MODEL, lower it to a target, compare the result with the unmodified model, and write it to OUT."""
    from graphwright.runtime.artifacts.export import export as run
    from graphwright.runtime.artifacts.export import support

    output = folder or output
    if output is None and not dry_run:
        raise typer.BadParameter("where to? name a folder, or ask for a --dry-run")
    goal = _target(target, dtype=dtype, dialect=dialect)
    original = load_model(model, task)
    options: dict[str, Any] = {"task": task, "inputs": parse_inputs(inputs or ()) or None, "pipeline": pipeline}
    options |= {"dynamic": None if static else "auto", "last_logits": last_logits}
    if dry_run or output is None:
        with step(f"checking for {goal}") as show:
            reports = support(original, goal, progress=show, **options)
        finish(
            {"target": str(goal)} | _all_facts(reports), _text(reports), all(r.ok for r in reports.values()), as_json
        )
    with step(f"exporting to {goal}") as show:
        done = run(original, output, goal, verify=verify, progress=show, raise_on_mismatch=False, **options)
    facts = {"target": str(goal), "task": done.bundle.task} | _all_facts(done.support)
    if verify:
        facts |= comparisons_facts(done.comparisons)
    finish(facts | ({"output": str(output)} if done.ok else {}), str(done), done.ok, as_json)


def _target(text: str, **options: str | None) -> Target:
    """The target, with those options that were given on their own."""
    import graphwright

    goal = graphwright.target(text)
    known = {field.name for field in dataclasses.fields(goal)}
    for name, value in options.items():
        if value is not None and name not in known:
            raise typer.BadParameter(f"the target '{goal.name}' has no option '{name}'")
    return dataclasses.replace(goal, **{name: value for name, value in options.items() if value is not None})


def _text(reports: dict[str, SupportReport]) -> str:
    if len(reports) == 1:
        return str(next(iter(reports.values())))
    return "\n".join(f"{name}: {report}" for name, report in reports.items())


def _all_facts(reports: dict[str, SupportReport]) -> dict[str, Any]:
    """Support of all parts together."""
    found = [support_facts(report) for report in reports.values()]
    return {
        "supported": all(facts["supported"] for facts in found),
        "calls": sum(facts["calls"] for facts in found),
        "unsupported": [item for facts in found for item in facts["unsupported"]],
    }
