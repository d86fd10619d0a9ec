"""`graphwright targets`: what a program can be lowered to."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from graphwright.cli.console import emit_json, show_table
from graphwright.cli.options import Json
from graphwright.ir.errors import GraphwrightError


def targets(as_json: Json = False) -> None:
    """List the targets, those of other packages included, with their options."""
    from graphwright.lowering.registry import target_names

    rows = [_describe(name) for name in target_names()]
    if as_json:
        emit_json(rows)
    else:
        columns = ["name", "options", "what it is"]
        show_table("targets", columns, [[row["name"], ", ".join(row["options"]), row["summary"]] for row in rows])


def _describe(name: str) -> dict[str, Any]:
    """The listing of a target; one that cannot be imported does not hide the others."""
    from graphwright.lowering.registry import find_target

    try:
        cls = find_target(name)
    except GraphwrightError as error:
        return {"name": name, "options": [], "summary": f"not available: {error.why or error.what}"}
    options = [f"{item.name}={item.default}" for item in dataclasses.fields(cls)]
    return {"name": name, "options": options, "summary": (inspect.getdoc(cls) or "").partition("\n")[0]}
