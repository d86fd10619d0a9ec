"""The bridge to onnx-graphsurgeon: ONNX artifacts as its graphs and back, and edits that are diffed and verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphwright.ir.diff import GraphDiff, diff
from graphwright.ir.errors import GraphwrightError, InputError, MissingDependencyError
from graphwright.lowering.compare import Comparison, compare
from graphwright.lowering.onnx.artifact import OnnxArtifact
from graphwright.lowering.onnx.session import OnnxFile
from graphwright.lowering.onnx.snapshot import onnx_snapshot

Edit = Callable[[Any], Any]
"""A function of a graphsurgeon graph; it changes the graph, and may return another one to use instead."""


@dataclass(frozen=True)
class Edited:
    """What edits made of an artifact.

    Args:
        artifact: The new artifact; the old one is as it was.
        diff: How its graph differs from the old one.
        comparison: How its results compare with the old one's; None if that was not wanted.
    """

    artifact: OnnxArtifact
    diff: GraphDiff
    comparison: Comparison | None


def to_graphsurgeon(artifact: OnnxArtifact | str | Path) -> Any:
    """An ONNX artifact, or an `.onnx` file, as an `onnx_graphsurgeon.Graph`.

    Raises:
        InputError: The artifact is no ONNX artifact.
        MissingDependencyError: onnx-graphsurgeon is not installed.
    """
    surgeon = _surgeon()
    import onnx
    import onnx_ir as ir

    if isinstance(artifact, (str, Path)):
        return surgeon.import_onnx(onnx.load(artifact))
    _check(artifact)
    if artifact.file.model is not None:
        return surgeon.import_onnx(ir.to_proto(artifact.file.model))
    assert artifact.file.path is not None
    return surgeon.import_onnx(onnx.load(artifact.file.path))


def from_graphsurgeon(graph: Any, artifact: OnnxArtifact) -> OnnxArtifact:
    """A graphsurgeon graph as an artifact with the inputs and outputs of the one that it was made from.

    Args:
        graph: The graph; it is cleaned up and sorted, not changed otherwise.
        artifact: What it was made from.

    Raises:
        InputError: The graph no longer has the inputs or outputs of the artifact, or refers to values that do not
            exist.
        MissingDependencyError: onnx-graphsurgeon is not installed.
    """
    surgeon = _surgeon()
    import onnx_ir as ir

    _check(artifact)
    graph = graph.copy().cleanup().toposort()
    _same_names("outputs", [value.name for value in graph.outputs], artifact.output_names)
    _same_names("inputs", [value.name for value in graph.inputs], artifact.input_names, fewer=True)
    _four_bit_constants(graph, surgeon)
    model = ir.from_proto(surgeon.export_onnx(graph, ir_version=11))
    _restore_origins(model, artifact)
    file = OnnxFile(model, external_bytes=artifact.file.external_bytes)
    result = OnnxArtifact(artifact.target, artifact.interface, artifact.provenance, file=file)
    result.in_place = artifact.in_place
    return result


def edit(artifact: OnnxArtifact, *edits: Edit, verify: bool = True) -> Edited:
    """Run passes written against onnx-graphsurgeon on an artifact.

    Args:
        artifact: Stays as it is.
        edits: Functions of the graph, in order.
        verify: Compare the results with the artifact's, on several sizes and paddings.

    Raises:
        GraphwrightError: An edit raised; names it.
        MismatchError: The results differ.
        InputError: An edit lost an input or output.
        MissingDependencyError: onnx-graphsurgeon is not installed.
    """
    graph = to_graphsurgeon(artifact)
    before = onnx_snapshot(from_graphsurgeon(graph, artifact).model)
    for function in edits:
        try:
            changed = function(graph)
        except Exception as error:
            name = getattr(function, "__name__", repr(function))
            raise GraphwrightError(
                "an edit of the ONNX graph failed", at=name, why=f"{type(error).__name__}: {error}"
            ) from error
        graph = graph if changed is None else changed
    result = from_graphsurgeon(graph, artifact)
    found = diff(before, onnx_snapshot(result.model))
    return Edited(result, found, compare(artifact, result) if verify else None)


def _restore_origins(model: Any, artifact: OnnxArtifact) -> None:
    """Where each operator comes from, which graphsurgeon does not keep, by the operator's name."""
    import onnx_ir as ir

    original = artifact.model if artifact.model is not None else ir.load(artifact.file.file())
    origins = {node.name: node.metadata_props for node in original.graph}
    for node in model.graph:
        node.metadata_props.update(origins.get(node.name, {}))


def _check(artifact: Any) -> None:
    if not isinstance(artifact, OnnxArtifact):
        raise InputError(f"a {type(artifact).__name__} is no ONNX artifact", remedies=["lower with gw.target('onnx')"])
    if artifact.branch is not None:
        raise InputError(
            "this artifact is one of two programs of a merged file", remedies=["edit the file: to_graphsurgeon(path)"]
        )


def _same_names(what: str, have: Sequence[str], want: Sequence[str], fewer: bool = False) -> None:
    lost = [] if fewer else [name for name in want if name not in have]
    extra = [name for name in have if name not in want]
    if lost or extra:
        raise InputError(
            f"the graph has other {what} than the artifact",
            why=", ".join([*(f"without {name}" for name in lost), *(f"with {name}" for name in extra)]),
        )


def _four_bit_constants(graph: Any, surgeon: Any) -> None:
    """Pack 4-bit constants made from arrays, which graphsurgeon writes with one byte for each item."""
    import onnx
    from onnx import helper

    kinds = {"int4": onnx.TensorProto.INT4, "uint4": onnx.TensorProto.UINT4}
    for name, value in graph.tensors().items():
        array = value.values if isinstance(value, surgeon.Constant) else None
        kind = kinds.get(getattr(getattr(array, "dtype", None), "name", ""))
        if array is None or kind is None:
            continue
        low = array.astype("int8").reshape(-1) & 0xF
        packed = [int(n) for n in low] + [0] * (len(low) % 2)
        data = bytes(a | b << 4 for a, b in zip(packed[::2], packed[1::2], strict=True))
        proto = helper.make_tensor(name, kind, array.shape, data, raw=True)
        value._values = surgeon.importers.onnx_importer.LazyValues(proto)


def _surgeon() -> Any:
    try:
        import onnx_graphsurgeon
    except ImportError as error:
        raise MissingDependencyError("onnx-graphsurgeon", "onnx", "editing ONNX models with it") from error
    return onnx_graphsurgeon
