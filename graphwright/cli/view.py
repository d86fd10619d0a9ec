"""`graphwright view`: a recorded trace as a page, as Model Explorer's JSON, or as Graphviz."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphwright.cli.console import output as console
from graphwright.ir.errors import GraphwrightError, MissingDependencyError

if TYPE_CHECKING:
    from graphwright.passes.trace import Trace


class Form(StrEnum):
    """What a trace can be written as."""

    HTML = "html"
    MODEL_EXPLORER = "model-explorer"
    DOT = "dot"


_SUFFIX = {Form.HTML: "html", Form.MODEL_EXPLORER: "json", Form.DOT: "dot"}


def view(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", exists=True, help="A trace.json, or the folder it is in.")],
    to: Annotated[Form, typer.Option("--to", help="What to write.")] = Form.HTML,
    output: Annotated[Path | None, typer.Option("--output", "-o", dir_okay=False, help="File to write.")] = None,
    rewrite: Annotated[int, typer.Option(min=1, help="Number of the rewrite that dot shows, from 1.")] = 1,
    show: Annotated[bool, typer.Option("--open", help="Open it: in the browser, or in Model Explorer.")] = False,
) -> None:
    """Write a recorded TRACE as a page or for Model Explorer, or one of its rewrites for Graphviz."""
    from graphwright.passes.dump import write_text
    from graphwright.passes.trace import Trace

    path = output or Path(f"trace.{_SUFFIX[to]}")
    recorded = Trace.load(trace / "trace.json" if trace.is_dir() else trace)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _text(recorded, to, rewrite))
    console().print(str(path))
    if show:
        _open(path, to)


def _text(trace: Trace, to: Form, number: int) -> str:
    """The contents of the file.

    Raises:
        GraphwrightError: There is no rewrite of this number.
    """
    if to is Form.HTML:
        return trace.to_html()
    if to is Form.MODEL_EXPLORER:
        return json.dumps(trace.to_model_explorer())
    from graphwright.passes.viewer.dot import to_dot

    rewrites = [rewrite for record in trace.records for rewrite in record.rewrites]
    if number > len(rewrites):
        raise GraphwrightError(f"there is no rewrite {number}", why=f"the trace has {len(rewrites)} rewrites")
    return to_dot(rewrites[number - 1])


def _open(path: Path, form: Form) -> None:
    """Show a written file.

    Raises:
        MissingDependencyError: Model Explorer is not installed.
    """
    if form is Form.MODEL_EXPLORER:
        try:
            import model_explorer
        except ImportError:
            raise MissingDependencyError("ai-edge-model-explorer", "viewer", "opening Model Explorer") from None
        model_explorer.visualize(str(path.resolve()))
    else:
        typer.launch(str(path.resolve()))
