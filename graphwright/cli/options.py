"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphwright.cli import inputs, models

Model = Annotated[str, typer.Argument(metavar="MODEL", help=models.HELP, show_default=False)]
Output = Annotated[
    Path, typer.Option("--output", "-o", file_okay=False, help="Folder to write to.", show_default=False)
]
OptionalOutput = Annotated[
    Path | None, typer.Option("--output", "-o", file_okay=False, help="Folder to write to.", show_default=False)
]
PipelineText = Annotated[
    str, typer.Option("--pipeline", "-p", help="Passes in order, such as canonicalize,fuse-attention{expect=all}.")
]
TargetText = Annotated[str, typer.Option("--target", "-t", help="Target, such as onnx{opset=23} or eager.")]
Inputs = Annotated[list[str] | None, typer.Option("--input", "-i", help=inputs.HELP, show_default=False)]
Task = Annotated[
    str | None, typer.Option(help="Task of a transformers model, such as text-generation; taken from its config.")
]
Static = Annotated[bool, typer.Option("--static", help="Fix all sizes to those of the example inputs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
