"""From an ONNX file to a Program."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from graphwright.frontends.axes import Axis
from graphwright.frontends.smallest import export_checked
from graphwright.ir.errors import InputError, MissingDependencyError
from graphwright.ir.program import Program

_NODE = re.compile(r"^nodes\.(\d+)$")
_CLASSES = re.compile(r"\s*:\s*[\w.]*")


def import_onnx(
    path: str | Path,
    inputs: Mapping[str, Any] | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
    constants: Mapping[str, bool] | None = None,
    dynamic: Any = "auto",
    name: str | None = None,
    verify: bool = True,
) -> Program:
    """Read an ONNX model as a Program of ATen operators. Weights in external files are mapped, not copied.

    Dotted names of inputs and outputs become nested mappings: the input `past_key_values.0.key` is
    `past_key_values={"0": {"key": ...}}`. Operator sets from 13 on; control flow only where its condition is constant.

    Args:
        path: The `.onnx` file.
        inputs: Example inputs by name; made from the declared types where not given.
        sizes: Sizes of named dimensions in the made-up example.
        constants: Values for boolean inputs that choose a branch, such as `use_cache_branch`; they are no inputs of
            the program.
        dynamic: See `graphwright.capture`; by default the dimensions that the file names.
        name: Name of the program, by default that of the file.
        verify: Compare with ONNX Runtime on the example inputs, where it is installed and can run the file.

    Raises:
        FileFormatError: The file is missing, damaged, too old, or refers to data outside its folder.
        CaptureError: An operator, or a form of one, is not understood; names the node.
        InputError: `inputs` or `constants` do not fit the graph.
        MismatchError: The program computes something else than ONNX Runtime.
        MissingDependencyError: onnx-ir is not installed.
    """
    try:
        from graphwright.frontends.onnx.module import OnnxModule
    except ImportError as error:
        raise MissingDependencyError("onnx-ir", "onnx", "reading ONNX models") from error
    from graphwright.frontends.onnx.check import agree
    from graphwright.frontends.onnx.inputs import example, nested
    from graphwright.frontends.onnx.reader import read

    path = Path(path)
    model = read(path)
    _check_names(constants or {}, [value.name for value in model.graph.inputs])
    module = OnnxModule(model, path.name, constants or {}).eval()
    names = [value.name or "" for value in module.inputs]
    tensors, axes = example(module.inputs, sizes or {}) if inputs is None else _given(inputs, module.inputs)
    program = export_checked(
        module, (), nested(names, tensors), dynamic=dynamic, suggested=axes, name=name or path.stem
    )
    _trace_back(program, module, path.name)
    _own_names(program)
    if verify:
        agree(program, path, names, tensors, constants)
    return program


def _given(inputs: Mapping[str, Any], wanted: Any) -> tuple[list[torch.Tensor], list[dict[int, Axis]]]:
    from graphwright.frontends.onnx.inputs import axes_of

    names = [value.name for value in wanted]
    _check_names(inputs, names)
    missing = [name for name in names if name not in inputs]
    if missing:
        raise InputError(f"no example for {', '.join(missing)}", why=f"the graph takes {', '.join(names)}")
    declared = [[size if isinstance(size, int) else size.value for size in value.shape or ()] for value in wanted]
    return [inputs[name] for name in names], [axes_of(shape) for shape in declared]


def _check_names(given: Mapping[str, Any], names: list[Any]) -> None:
    unknown = [name for name in given if name not in names]
    if unknown:
        raise InputError(f"the graph has no input {', '.join(unknown)}", why=f"its inputs are {', '.join(names)}")


def _trace_back(program: Program, module: Any, source: str) -> None:
    """Let every node of the program say which node of the file, and which part of the model, it comes from."""
    for node in program.graph.nodes:
        stack = node.meta.get("nn_module_stack") or {}
        found = next((match for path, _ in reversed(stack.values()) if (match := _NODE.match(path))), None)
        if found is None:
            continue
        origin = module.nodes[int(found[1])]
        path = _namespace(origin.node)
        node.meta["nn_module_stack"] = {path: (path, "onnx")} if path else {}
        node.meta["stack_trace"] = _frame(origin, source)


def _own_names(program: Program) -> None:
    """Name the weights as the file does, without the folder that the module keeps them in."""
    names = {name: name.removeprefix("_weights.") for name in program.state}
    program.state = {names[name]: value for name, value in program.state.items()}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            node.target = names[node.target]
    program.touch()


def _frame(origin: Any, source: str) -> str:
    """Where the model's source made a node, as the exporter recorded it, else which node of the file it is."""
    recorded = re.fullmatch(r"(.+):(\d+)", origin.node.metadata_props.get("source", ""))
    file, line = recorded.groups() if recorded else (source, origin.index)
    return f'  File "{file}", line {line}, in {origin.node.name or origin.node.op_type}\n'


def _namespace(node: Any) -> str:
    """The module path of an ONNX node: what exporters recorded, else the folders of its name."""
    recorded = node.metadata_props.get("namespace")
    if recorded is not None:
        parts = [_CLASSES.sub("", part).strip() for part in recorded.split("/")]
        return ".".join(part for part in parts if part)
    name = node.name or ""
    return ".".join(part for part in name.split("/")[:-1] if part)
