"""Reading of an ONNX file into a graph that is ready to be executed: functions inlined, constants in one place."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes import common

from graphwright.frontends.onnx.known import KNOWN
from graphwright.frontends.onnx.table import TABLE
from graphwright.frontends.onnx.weights import external_path
from graphwright.ir.errors import CaptureError, FileFormatError

OLDEST = 13
"""The first operator set whose Softmax, Squeeze and reductions mean what they mean today."""

STRUCTURE = {"If"}
"""Operators with graphs inside that are taken apart, not looked up."""


def read(path: Path) -> ir.Model:
    """Read and check an ONNX file.

    Raises:
        FileFormatError: It is missing, damaged, refers to data outside its folder, or is older than opset 13.
        CaptureError: It has operators that are not understood; names all of them.
    """
    try:
        model = ir.load(path)
        if model.functions:
            common.InlinePass()(model)
        common.LiftConstantsToInitializersPass(lift_all_constants=False, size_limit=0)(model)
        common.RemoveUnusedNodesPass()(model)
        common.TopologicalSortPass()(model)
    except Exception as error:  # whatever a damaged file provokes in protobuf and onnx-ir
        raise FileFormatError(
            "cannot read the ONNX model", at=str(path), why=f"{type(error).__name__}: {error}"
        ) from error
    _check_version(model, path)
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            external_path(value.const_value)
    _check_operators(model, path)
    return model


def _check_version(model: ir.Model, path: Path) -> None:
    opset = model.opset_imports.get("", 0)
    if opset < OLDEST:
        raise FileFormatError(
            f"the model uses operator set {opset}",
            at=str(path),
            why=f"sets before {OLDEST} give operators other meanings",
            remedies=[f"onnx.version_converter.convert_version(model, {OLDEST}), or export it again"],
        )


def _check_operators(model: ir.Model, path: Path) -> None:
    unknown: dict[str, str] = {}
    for node in model.graph.all_nodes():
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (domain, node.op_type) not in TABLE and node.op_type not in KNOWN and node.op_type not in STRUCTURE:
            unknown.setdefault(f"{domain or 'ai.onnx'}::{node.op_type}", node.name or "(unnamed)")
    if unknown:
        raise CaptureError(
            f"{len(unknown)} operators of this model are not understood",
            at=str(path),
            why=", ".join(f"{name} (first at {node})" for name, node in sorted(unknown.items())),
            remedies=["export it with other options, so that these operators are decomposed"],
        )
