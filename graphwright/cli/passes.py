"""`graphwright passes`: what a pipeline can be made of."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from graphwright.cli.console import emit_json, show_table
from graphwright.cli.options import Json


def passes(
    name: Annotated[str | None, typer.Argument(help="One pass; all where left out.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """List the passes, those of other packages included, with their options."""
    from graphwright.passes.registry import describe, pass_names

    found = [describe(each) for each in ([name] if name else pass_names())]
    if as_json:
        emit_json([dataclasses.asdict(info) for info in found])
    else:
        rows = [[info.name, ", ".join(info.options), info.summary] for info in found]
        show_table("passes", ["name", "options", "what it does"], rows)
