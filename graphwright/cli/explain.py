"""`graphwright explain`: where the rules of a pass match, and why they do not elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from graphwright.cli.console import emit_json, show_text
from graphwright.cli.models import load_program
from graphwright.cli.options import Inputs, Json, Model, Static, Task


def explain(
    model: Model,
    pass_: Annotated[str, typer.Argument(metavar="PASS", help="Name of a pass.", show_default=False)],
    inputs: Inputs = None,
    task: Task = None,
    static: Static = False,
    as_json: Json = False,
) -> None:
    """Say where the rules of PASS match in MODEL, and what came nearest elsewhere, with reason and source line."""
    import graphwright

    report = graphwright.explain(load_program(model, inputs, task, static), pass_)
    if as_json:
        emit_json(report.as_dict())
    else:
        show_text(str(report))
