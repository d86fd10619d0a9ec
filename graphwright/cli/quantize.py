"""`graphwright quantize`: weights of a transformers model as integer codes, in a checkpoint or a program."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphwright.cli.calibration import token_batches
from graphwright.cli.console import emit_json, show_text, step
from graphwright.cli.models import capture_model, load_model
from graphwright.cli.options import Json, Model

if TYPE_CHECKING:
    from torch.nn import Module

    from graphwright.ir.program import Program
    from graphwright.passes.quant.gptq import Quantize

REPORT = "quantization.json"
_BATCH = 8
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt", "spiece.model", "chat_template*")


class Method(StrEnum):
    """How codes are chosen."""

    GPTQ = "gptq"
    RTN = "rtn"


class Form(StrEnum):
    """What is written."""

    CHECKPOINT = "checkpoint"
    PROGRAM = "program"


def quantize(
    model: Model,
    output: Annotated[Path, typer.Argument(metavar="OUT", file_okay=False, help="New folder to write to.")],
    bits: Annotated[int, typer.Option(help="Bits of a code: 2, 3, 4 or 8.")] = 4,
    group_size: Annotated[int, typer.Option(help="Inputs that share a scale; 0 for one scale per output.")] = 128,
    method: Annotated[Method, typer.Option(help="gptq needs calibration text, rtn none.")] = Method.GPTQ,
    calibration: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Text: .txt, or .jsonl with a field 'text'.", show_default=False)
    ] = None,
    heldout: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Text to score the model on.", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Rows of calibration text.")] = 128,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a row.")] = 512,
    asymmetric: Annotated[bool, typer.Option("--asymmetric", help="A zero point for each group.")] = False,
    order: Annotated[str, typer.Option(help="Order of inputs: none, act, static or group.")] = "group",
    curvature: Annotated[
        bool, typer.Option("--curvature", help="Weigh errors by what they do to the predictions; slower and closer.")
    ] = False,
    heads: Annotated[bool, typer.Option("--heads", help="Also the output projection, such as lm_head.")] = False,
    form: Annotated[
        Form, typer.Option("--format", help="A GPTQ checkpoint that other tools read, or a program.")
    ] = Form.CHECKPOINT,
    work: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder of finished stages; resumes.", show_default=False)
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where to compute: cpu, cuda, or auto for a GPU if there is one.")
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Quantize the weights of MODEL, a transformers folder, and write them to OUT.

    An interrupted run goes on where it was when it is started again. Under `torchrun --nproc-per-node N -m graphwright
    quantize ...` the work is spread over N processes.
    """
    from graphwright.cli.processes import process_group
    from graphwright.passes.pipeline import Pipeline

    if output.exists():
        raise typer.BadParameter(f"{output} exists already; name a new folder")
    original = load_model(model)
    experts = _with_experts(original, form)
    options = {"bits": bits, "group_size": group_size, "symmetric": not asymmetric, "order": order, "heads": heads}
    texts = [None if file is None else _tokens(file, model, samples, length) for file in (calibration, heldout)]
    work = work or output.with_name(f".{output.name}-work")
    program = capture_model(original)
    with process_group(device) as place, step("quantizing") as show:
        held = {"heldout": texts[1] or (), "experts": experts, "curvature": curvature}
        pass_ = _pass(method, texts[0], place.device, work, show, options | held)
        result = Pipeline(["canonicalize,conv1d-to-linear", pass_]).run(program, validate=False)
    if not place.is_first:
        return
    report = result.trace.records[-1].notes["quantization"]
    with step(f"writing {output}"):
        _write(form, original, model, result.program, output, {"method": method.value} | options)
        (output / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(work, ignore_errors=True)
    emit_json(report | {"output": str(output)}) if as_json else show_text(_summary(report, form, result.program))


def _with_experts(original: Module | Program, form: Form) -> bool:
    """Whether experts are quantized too: a checkpoint holds those of some forms only."""
    from graphwright.frontends.gptq.experts import are_storable
    from graphwright.ir.program import Program

    if form is Form.PROGRAM:
        return True
    if isinstance(original, Program):
        raise typer.BadParameter(
            "a checkpoint is written for a transformers folder; a saved program takes --format program"
        )
    return are_storable(original)


def _pass(
    method: Method,
    batches: list[dict[str, Any]] | None,
    device: str,
    work: Path,
    show: Callable[[str], None],
    options: dict[str, Any],
) -> Quantize:
    from graphwright.passes.quant.calibrate import Calibration
    from graphwright.passes.quant.gptq import QuantizeGptq
    from graphwright.passes.quant.rtn import QuantizeRtn

    def progress(done: int, stages: int, paths: Sequence[str]) -> None:
        show(f"{done}/{stages} {paths[0] if paths else ''}")

    if method is Method.RTN:
        return QuantizeRtn(**options, progress=progress)
    if batches is None:
        raise typer.BadParameter("--method gptq needs --calibration FILE; --method rtn needs none")
    return QuantizeGptq(**options, progress=progress, calibration=Calibration(batches, device), work=str(work))


def _tokens(file: Path, model: str, samples: int, length: int) -> list[dict[str, Any]]:
    processes = int(os.environ.get("WORLD_SIZE", 1))
    return token_batches(file, tokenizer_of(model), samples, length, batch=max(1, min(_BATCH, samples // processes)))


def tokenizer_of(model: str) -> Any:
    """The tokenizer in a transformers folder.

    Raises:
        typer.BadParameter: There is none.
    """
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise typer.BadParameter(f"{model} has no tokenizer that turns text into tokens: {error}") from error


def _write(form: Form, original: Any, model: str, program: Any, output: Path, meta: dict[str, Any]) -> None:
    from graphwright.frontends.gptq.save import save_gptq
    from graphwright.passes.quant.pack import packed_weights

    if form is Form.PROGRAM:
        program.save(output)
        return
    save_gptq(original, output, packed_weights(program), meta=meta)
    for file in (file for pattern in TOKENIZER for file in Path(model).glob(pattern)):
        shutil.copy(file, output)


def _summary(report: dict[str, Any], form: Form, program: Any) -> str:
    from graphwright.passes.quant.experts import is_grouped
    from graphwright.passes.quant.pack import unpack_weight

    lines = [f"{len(report['rows'])} linears, relative error {report['error']:.4f}, {report['seconds']:.1f} s"]
    quality = report.get("quality")
    if quality:
        lines.append(f"KL {quality['kl']:.5f}, perplexity {quality['perplexity']:.3f}")
    packed = any(node.target is unpack_weight for node in program.graph.nodes)
    if form is Form.CHECKPOINT and not packed and any(map(is_grouped, program.graph.nodes)):
        lines.append("experts stay as they are: a checkpoint cannot hold theirs; --format program quantizes them too")
    return "\n".join(lines)
