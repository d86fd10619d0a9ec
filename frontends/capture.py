"""`capture`: anything that can become a Program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from graphwright.frontends.axes import automatic, parameter_leaves
from graphwright.frontends.naming import name_dims
from graphwright.frontends.smallest import export_checked
from graphwright.frontends.tasks import is_pretrained, parse_task
from graphwright.ir.errors import CaptureError, FileFormatError, InputError
from graphwright.ir.program import Program
from graphwright.ir.signature import Example


def capture(
    model: Any, inputs: Any = None, *, dynamic: Any = "auto", task: str | None = None, name: str | None = None
) -> Program:
    """Capture a model as a Program. The model is left as it is, and keeps its mode (train or eval).

    Args:
        model: An `nn.Module` (a `torch.fx.GraphModule` is one), a transformers model, an `ExportedProgram`, the path
            of a `.pt2` or `.onnx` file, or the folder of a saved program.
        inputs: Example inputs: a tuple of positional arguments, a mapping of keyword arguments, or one tensor. A
            transformers model needs none: they are made from its config.
        dynamic: Which dimensions may change: `"auto"` for all that the model allows; None for none;
            `{"input_ids": {0: "batch", 1: ("sequence", 1, 512)}}`; or by name, `{"batch": ..., "sequence": (1, 512)}`.
        task: For a transformers model without inputs: what to capture it for. The default is the task of its class,
            generation without a cache; `"text-generation-with-past"` takes and returns `past_key_values`.
        name: Name of the program, by default the model's class.

    Raises:
        CaptureError: The model cannot be captured; says which attempt failed, where in its source, and what to try.
        FileFormatError: A file is missing, damaged, or could run code when loaded.
        InputError: `inputs`, `dynamic` or `task` do not fit the model.
    """
    if isinstance(model, Program):
        return model.clone()
    if isinstance(model, (str, Path)):
        return _from_path(Path(model), inputs, dynamic, name)
    if isinstance(model, ExportedProgram):
        return from_exported_program(model, inputs, name=name)
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"a {type(model).__name__} cannot be captured",
            remedies=["pass an nn.Module, an ExportedProgram, a .pt2 or .onnx file, or the folder of a saved program"],
        )
    if inputs is None and is_pretrained(model):
        return _from_pretrained(model, dynamic, task, name)
    if task is not None:
        raise InputError("task= selects made-up inputs", why="inputs were given, or this is no transformers model")
    args, kwargs = _call(model, inputs)
    return export_checked(model, args, kwargs, dynamic=dynamic, name=name)


def _call(model: torch.nn.Module, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if inputs is None:
        raise CaptureError(
            f"{type(model).__name__} needs example inputs",
            why="only the inputs of a transformers model can be made up",
            remedies=["capture(model, (tensor, ...)) or capture(model, {'name': tensor, ...})"],
        )
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    return (inputs,), {}


def _from_pretrained(model: Any, dynamic: Any, task: str | None, name: str | None) -> Program:
    from graphwright.frontends.example import example_inputs
    from graphwright.frontends.past import suggested_axes, with_past

    task, past = parse_task(model, task)
    inputs = example_inputs(model, task)
    if past:
        inputs = with_past(model, inputs)
    return export_checked(model, (), inputs.values, dynamic=dynamic, suggested=suggested_axes(inputs), name=name)


def from_exported_program(exported: ExportedProgram, inputs: Any = None, *, name: str | None = None) -> Program:
    """A Program from what `torch.export.export` returned; its dynamic dimensions are named by convention.

    Args:
        exported: Stays as it is.
        inputs: Example inputs, needed only if it was exported without any recorded.
        name: Name of the program.

    Raises:
        CaptureError: There are no example inputs.
    """
    if inputs is not None:
        args, kwargs = _call(torch.nn.Module(), inputs)
    elif exported.example_inputs is not None:
        args, kwargs = exported.example_inputs
    else:
        raise CaptureError("the exported program records no example inputs", remedies=["pass inputs=..."])
    program = Program.from_exported(exported, example=Example(tuple(args), dict(kwargs)), name=name or "program")
    leaves = parameter_leaves(program.signature.parameters, args, kwargs)
    name_dims(program, [parameter for parameter, _ in leaves], automatic(leaves))
    return program


def _from_path(path: Path, inputs: Any, dynamic: Any, name: str | None) -> Program:
    if path.is_dir():
        return Program.load(path)
    if not path.is_file():
        raise FileFormatError("there is no such file or folder", at=str(path))
    if path.suffix == ".onnx":
        from graphwright.frontends.onnx.importer import import_onnx

        return import_onnx(path, inputs, dynamic=dynamic, name=name)
    from graphwright.frontends.pt2 import load_exported

    return from_exported_program(load_exported(path), name=name or path.stem)
