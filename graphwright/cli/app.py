"""The typer application that joins the commands; one file holds one command."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from graphwright.cli.bisect import bisect
from graphwright.cli.capture import capture
from graphwright.cli.diff import diff
from graphwright.cli.explain import explain
from graphwright.cli.export import export
from graphwright.cli.optimize import optimize
from graphwright.cli.passes import passes
from graphwright.cli.quantize import quantize
from graphwright.cli.targets import targets
from graphwright.cli.tune import tune
from graphwright.cli.verify import verify
from graphwright.cli.view import view

app = typer.Typer(
    help="Capture transformer models once, rewrite them with verified passes, and lower them to every target.",
    epilog="Exit status: 0 fine, 1 mismatch or failure, 2 usage.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EXAMPLES: dict[Callable[..., None], str] = {
    capture: "graphwright capture ./minilm -o out/minilm",
    optimize: "graphwright optimize ./minilm --pipeline 'canonicalize,fuse-attention{expect=all}' -o out/fused",
    export: "\n\n".join(
        [
            "graphwright export ./minilm out/onnx --target onnx{opset=23} --task feature-extraction",
            "graphwright export ./minilm out/small --target onnx{int8=dynamic}",
            "graphwright export ./llama out/half --target onnx --dtype float16 --task text-generation-with-past",
            "graphwright export ./llama out/openvino --target openvino{weights=u4}",
            "graphwright export ./minilm out/furiosa --target furiosa{sizes=batch:1/sequence:128}",
            "graphwright export ./minilm out/hpu --target hpu{sizes=batch:8/sequence:128}",
            "graphwright export ./minilm out/tflite --target tflite{sizes=batch:1/sequence:64+128,weights=i8}",
            "graphwright export ./minilm out/eager --target eager",
        ]
    ),
    quantize: "graphwright quantize ./llama out/llama-4bit --bits 4 --group-size 128 --calibration text.txt",
    tune: "graphwright tune ./llama --metric evaluation:accuracy --max-drop 1% --log tuning.jsonl -o out/llama-tuned",
    diff: "graphwright diff ./minilm --pipeline fuse-attention",
    explain: "graphwright explain transformers:BertModel fuse-attention",
    bisect: "graphwright bisect ./minilm --pipeline canonicalize,fuse-attention -o out/reproducer",
    view: "graphwright view out/trace --to model-explorer -o out/graphs.json",
    verify: "graphwright verify ./minilm out/onnx",
    passes: "graphwright passes fuse-attention --json",
    targets: "graphwright targets --json",
}

for _command, _example in EXAMPLES.items():
    app.command(epilog=f"Example:  {_example}")(_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"graphwright {version('graphwright')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass
