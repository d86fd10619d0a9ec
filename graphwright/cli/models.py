"""What a MODEL on the command line names: a folder, a `.pt2` or `.onnx` file, or a class."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from graphwright.cli.console import step
from graphwright.cli.inputs import parse_inputs
from graphwright.ir.errors import FileFormatError

if TYPE_CHECKING:
    from torch.nn import Module

    from graphwright.ir.program import Program

WRITTEN_OUT = {"attn_implementation": "eager"}
"""transformers writes attention out as products and softmax, so that it is the passes that fuse it."""

HELP = "A folder (saved program, or transformers model), a .pt2 or .onnx file, or package:module.Class."


AUTO = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "multiple-choice": "AutoModelForMultipleChoice",
    "image-classification": "AutoModelForImageClassification",
    "semantic-segmentation": "AutoModelForSemanticSegmentation",
    "object-detection": "AutoModelForObjectDetection",
    "zero-shot-image-classification": "AutoModelForZeroShotImageClassification",
    "audio-classification": "AutoModelForAudioClassification",
    "audio-frame-classification": "AutoModelForAudioFrameClassification",
    "audio-xvector": "AutoModelForAudioXVector",
}
"""The class that a task asks for; other tasks take the class that the model's config names."""


def load_model(text: str, task: str | None = None) -> Module | Program:
    """The model that `text` names, of the class for `task` where it is a folder of transformers.

    Raises:
        typer.BadParameter: There is no such file, package or class.
        FileFormatError: A file or folder is there but is not a model.
    """
    with step(f"loading {text}"):
        return _load(Path(text), text, task)


def capture_model(
    model: Module | Program, inputs: Sequence[str] | None = None, task: str | None = None, static: bool = False
) -> Program:
    """Capture a model; a program is returned as it is.

    Args:
        model: What `load_model` returned.
        inputs: Example inputs as `name=dtype[sizes]`.
        task: What to capture a transformers model for, such as `text-generation`.
        static: Fix all sizes to those of the example inputs.
    """
    import graphwright

    if isinstance(model, graphwright.Program):
        return model
    example = parse_inputs(inputs or ()) or None
    with step("capturing"):
        return graphwright.capture(model, example, dynamic=None if static else "auto", task=task)


def load_program(
    text: str, inputs: Sequence[str] | None = None, task: str | None = None, static: bool = False
) -> Program:
    """The model that `text` names as a program; see `capture_model`."""
    return capture_model(load_model(text), inputs, task, static)


def _load(path: Path, text: str, task: str | None) -> Module | Program:
    import graphwright

    if path.is_dir():
        return _from_folder(path, task)
    if path.is_file() and path.suffix in (".pt2", ".onnx"):
        return graphwright.capture(path)
    if ":" in text and not path.exists():
        return _from_class(text)
    raise typer.BadParameter(f"'{text}' is neither a folder, nor a .pt2 or .onnx file, nor package:module.Class")


def _from_folder(folder: Path, task: str | None) -> Module | Program:
    if (folder / "program.json").exists():
        from graphwright.ir.program import Program

        return Program.load(folder)
    if (folder / "config.json").exists():
        return _pretrained(folder, task)
    raise FileFormatError(
        "this folder holds no model",
        at=str(folder),
        why="there is neither program.json (a saved program) nor config.json (a transformers model) in it",
    )


def _pretrained(folder: Path, task: str | None) -> Module:
    """A transformers model of the class its config names, or the task; nothing is fetched from anywhere."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers

    from graphwright.frontends.gptq.config import is_gptq

    if is_gptq(folder):
        from graphwright.frontends.gptq.load import load_gptq

        return load_gptq(folder)
    transformers.utils.logging.disable_progress_bar()
    try:
        names = json.loads((folder / "config.json").read_text()).get("architectures") or ["AutoModel"]
        cls = getattr(transformers, AUTO.get((task or "").removesuffix("-with-past"), names[0]))
        model = cls.from_pretrained(folder, local_files_only=True, **WRITTEN_OUT).eval()
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise FileFormatError(
            "transformers cannot load the model of this folder", at=str(folder), why=str(error).strip()
        ) from error
    if task not in ("sentence-similarity", "sentence-embedding"):
        return model
    from graphwright.frontends.sentences import load_sentence_embedder

    return load_sentence_embedder(folder, model)


def _from_class(text: str) -> Module:
    from torch.nn import Module

    item = find_object(text)
    model = item if isinstance(item, Module) else _instance(item, text)
    if not isinstance(model, Module):
        raise typer.BadParameter(f"'{text}' gave a {type(model).__name__}, not a torch.nn.Module")
    return model.eval()


def find_object(text: str) -> Any:
    """The object at `package:module.Class`; modules of the current folder are found as `python -m` finds them.

    Raises:
        typer.BadParameter: It cannot be imported.
    """
    name, _, path = text.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        item: Any = importlib.import_module(name)
        for part in path.split("."):
            name = f"{name}.{part}"
            item = getattr(item, part) if hasattr(item, part) else importlib.import_module(name)
    except ImportError as error:
        raise typer.BadParameter(f"'{text}' cannot be imported: {error}") from error
    return item


def _instance(item: Any, text: str) -> Any:
    """Call a class or factory; a transformers class gets its default config, with random weights."""
    config = getattr(item, "config_class", None)
    try:
        return item(config(**WRITTEN_OUT)) if config is not None else item()
    except TypeError as error:
        raise typer.BadParameter(
            f"'{text}' cannot be made without arguments ({error}); name a function that returns the model"
        ) from error
