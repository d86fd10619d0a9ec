"""`graphwright passes`: what a pipeline can be made of."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from graphwright.cli.console import emit_json, show_table
from graphwright.cli.options import Json
from graphwright.ir.errors import GraphwrightError

if TYPE_CHECKING:
    from graphwright.passes.registry import PassInfo


def passes(
    name: Annotated[str | None, typer.Argument(help="One pass; all where left out.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """List the passes, those of other packages included, with their options."""
    from graphwright.passes.registry import describe, pass_names

    found = [describe(name)] if name else [_describe_or_say_why(each) for each in pass_names()]
    if as_json:
        emit_json([dataclasses.asdict(info) for info in found])
    else:
        rows = [[info.name, ", ".join(info.options), info.summary] for info in found]
        show_table("passes", ["name", "options", "what it does"], rows)


def _describe_or_say_why(name: str) -> PassInfo:
    """The listing of a pass; one that cannot be imported does not hide the others."""
    from graphwright.passes.registry import PassInfo, describe

    try:
        return describe(name)
    except GraphwrightError as error:
        return PassInfo(name, f"not available: {error.why or error.what}", ())
