"""`graphwright tune`: the smallest or fastest precision per group of layers that a metric allows."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphwright.cli.calibration import token_batches
from graphwright.cli.console import emit_json, show_text, step
from graphwright.cli.models import find_object, load_program
from graphwright.cli.options import Inputs, Json, Model, OptionalOutput, TargetText, Task
from graphwright.cli.quantize import tokenizer_of

if TYPE_CHECKING:
    from graphwright.passes.quant.calibrate import Calibration
    from graphwright.tuning.search import Tuned


class Objective(StrEnum):
    """What is made small."""

    SIZE = "size"
    SPEED = "speed"


class Groups(StrEnum):
    """Which linears share a precision."""

    ROLE = "role"
    LAYER = "layer"
    LINEAR = "linear"


def tune(
    model: Model,
    metric: Annotated[str, typer.Option(help="module:function, called with the model; returns a number.")],
    output: OptionalOutput = None,
    max_drop: Annotated[str, typer.Option(help="How far the metric may drop: 1%, or a number.")] = "1%",
    objective: Annotated[Objective, typer.Option(help="Smallest weights, or fastest call.")] = Objective.SIZE,
    methods: Annotated[str, typer.Option(help="rtn, gptq, inc-rtn, inc-hqq, inc-gptq, inc-awq.")] = "rtn",
    bits: Annotated[str, typer.Option(help="Numbers of bits to try.")] = "3,4,8",
    group_size: Annotated[int, typer.Option(help="Inputs that share a scale; 0 for one scale per output.")] = 128,
    groups: Annotated[Groups, typer.Option(help="Which linears share a precision.")] = Groups.ROLE,
    heads: Annotated[bool, typer.Option("--heads", help="Also the output projection, such as lm_head.")] = False,
    lower_is_better: Annotated[bool, typer.Option("--lower-is-better", help="The metric is an error.")] = False,
    calibration: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Text: .txt, or .jsonl with a field 'text'.", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Rows of calibration text.")] = 32,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a row.")] = 256,
    target: TargetText = "eager",
    log: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File of trials; resumes.", show_default=False)
    ] = None,
    inputs: Inputs = None,
    task: Task = None,
    as_json: Json = False,
) -> None:
    """Search the precision of each group of linears in MODEL: smallest or fastest, within a bound on the metric."""
    from graphwright.tuning.search import tune as search

    function = find_object(metric)
    if not callable(function):
        raise typer.BadParameter(f"'{metric}' is no function", param_hint="--metric")
    program = load_program(model, inputs, task)
    data = None if calibration is None else _calibration(calibration, model, samples, length)
    with step("tuning") as show:
        found = search(
            program, function, max_drop, objective=objective.value, methods=_words(methods), bits=_numbers(bits),
            group_size=group_size, groups=groups.value, heads=heads, lower_is_better=lower_is_better,
            calibration=data, target=target, log=log,
            progress=lambda trial, fits: show(f"{trial.choice}: {trial.score:.5g}{'' if fits else ', too far'}"),
        )  # fmt: skip
    if output is not None:
        with step(f"writing {output}"):
            found.program.save(output)
    emit_json(_facts(found, output)) if as_json else show_text(str(found))


def _calibration(file: Path, model: str, samples: int, length: int) -> Calibration:
    from graphwright.passes.quant.calibrate import Calibration

    return Calibration(token_batches(file, tokenizer_of(model), samples, length))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in _words(text)]
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no list of numbers", param_hint="--bits") from None


def _facts(found: Tuned, output: Path | None) -> dict[str, Any]:
    facts = {"best": asdict(found.best), "baseline": asdict(found.baseline), "trials": len(found.trials)}
    return facts | {"output": str(output) if output else None}
