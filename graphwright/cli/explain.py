"""`graphwright explain`: where passes match and why they do not elsewhere, and what a target does not support."""

from __future__ import annotations

from typing import Annotated

import typer

from graphwright.cli.console import emit_json, finish, show_text
from graphwright.cli.models import load_program
from graphwright.cli.options import Inputs, Json, Model, Static, Task
from graphwright.cli.pipeline import run_pipeline
from graphwright.cli.summary import support_facts


def explain(
    model: Model,
    pass_: Annotated[
        str, typer.Argument(metavar="PASS", help="Name of a pass; all of the default pipeline where left out.")
    ] = "default",
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Say what this target does not support after PASS.")
    ] = None,
    inputs: Inputs = None,
    task: Task = None,
    static: Static = False,
    as_json: Json = False,
) -> None:
    """Say where the rules of PASS match in MODEL, and what came nearest elsewhere, with reason and source line.

    With --target, nothing is lowered: the report says what stays unsupported and why (status 1 if anything does).
    """
    import graphwright

    program = load_program(model, inputs, task, static)
    if target is not None:
        support = graphwright.target(target).check(run_pipeline(program, pass_).program)
        finish({"target": support.target} | support_facts(support), str(support), support.ok, as_json)
    report = graphwright.explain(program, pass_)
    if as_json:
        emit_json(report.as_dict())
    else:
        show_text(str(report))
