"""ONNX models as snapshots, so that they can be compared like programs: by structure, not by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from graphwright.ir.encoding import Encoded
from graphwright.ir.errors import FileFormatError
from graphwright.ir.record import NodeRecord
from graphwright.ir.snapshot import Snapshot, StateRecord
from graphwright.ir.typetext import dtype_text

SMALL = 64
"""Constants of at most this many bytes are compared by value, larger ones by type only."""


def read_onnx(path: str | Path) -> Snapshot:
    """Picture of an `.onnx` file; weights that are stored beside it are not read.

    Raises:
        FileFormatError: The file is missing, truncated, or no ONNX model.
    """
    try:
        return onnx_snapshot(ir.load(path), Path(path).stem)
    except Exception as error:  # whatever a damaged file provokes in protobuf and onnx-ir
        raise FileFormatError(
            "cannot read the ONNX model", at=str(path), why=f"{type(error).__name__}: {error}"
        ) from error


def onnx_snapshot(model: ir.Model, name: str = "") -> Snapshot:
    """Picture of an ONNX model in memory."""
    return _graph(model.graph, model.graph.name or name)


def _graph(graph: ir.Graph, name: str) -> Snapshot:
    names = _Names()
    nodes = [_input(value, names) for value in graph.inputs]
    state = []
    for value in graph.initializers.values():
        record = _initializer(value, names)
        nodes.append(record)
        if record.target == value.name:
            state.append(StateRecord(record.target, record.type, value.const_value.nbytes if value.const_value else 0))
    nodes += [_node(node, names) for node in graph]
    results = ("tuple", *[names.reference(value) for value in graph.outputs])
    nodes.append(NodeRecord(names.fresh("output"), "output", "output", (results,), (), "", "", ""))
    return Snapshot(name, tuple(nodes), tuple(sorted(state, key=lambda record: record.name)))


class _Names:
    """Names of the records: unique, and what each value is in terms of them."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.values: dict[ir.Value, Encoded] = {}

    def fresh(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.taken:
            name, number = f"{wanted}.{number}", number + 1
        self.taken.add(name)
        return name

    def reference(self, value: ir.Value | None) -> Encoded:
        """A value as an argument; one of an outer graph by its name."""
        if value is None:
            return None
        return self.values.get(value, ("str", str(value.name)))


def _input(value: ir.Value, names: _Names) -> NodeRecord:
    name = names.values[value] = names.fresh(str(value.name))
    return NodeRecord(name, "placeholder", name, (), (), _type(value), "", "")


def _initializer(value: ir.Value, names: _Names) -> NodeRecord:
    """A weight goes by its name; a small constant by its contents, as its name says nothing."""
    name = names.values[value] = names.fresh(str(value.name))
    tensor = value.const_value
    small = tensor is not None and tensor.nbytes <= SMALL and not isinstance(tensor, ir.ExternalTensor)
    target = str(tensor.numpy().tolist()) if tensor is not None and small else str(value.name)
    return NodeRecord(name, "get_attr", target, (), (), _type(value), "", "")


def _node(node: ir.Node, names: _Names) -> NodeRecord:
    outputs = [value for value in node.outputs if value.name]
    name = names.fresh(node.name or (str(outputs[0].name) if outputs else node.op_type))
    for i, value in enumerate(node.outputs):
        names.values[value] = ("tuple", name, i) if len(outputs) > 1 else name
    types = [_type(value) for value in outputs]
    origin = node.metadata_props
    return NodeRecord(
        name,
        "call_function",
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type,
        tuple([names.reference(value) for value in node.inputs]),
        tuple(sorted((key, _attribute(value)) for key, value in node.attributes.items())),
        types[0] if len(types) == 1 else f"({', '.join(types)})",
        origin.get("namespace", ""),
        origin.get("source", ""),
    )


def _attribute(attribute: Any) -> Encoded:
    """The value of an attribute; subgraphs by their fingerprint, tensors by their contents."""
    value = attribute.value
    if attribute.type == ir.AttributeType.GRAPH:
        return ("str", f"graph {_graph(value, '').fingerprint[:12]}")
    if attribute.type == ir.AttributeType.TENSOR:
        contents = value.numpy().tolist() if value.nbytes <= SMALL else f"{value.nbytes} bytes"
        return ("str", f"{_dtype(value.dtype)}{list(value.shape)} {contents}")
    return _encoded(value)


def _encoded(value: Any) -> Encoded:
    if isinstance(value, float):
        return ("float", repr(value))
    if isinstance(value, int):
        return int(value)
    if isinstance(value, (list, tuple)):
        return ("list", *[_encoded(item) for item in value])
    return ("str", value if isinstance(value, str) else str(value))


def _type(value: ir.Value) -> str:
    """`f32[batch,768]`, `""` where the model does not say."""
    if value.dtype is None:
        return ""
    sizes = "?" if value.shape is None else ",".join(_size(size) for size in value.shape)
    return f"{_dtype(value.dtype)}[{sizes}]"


def _size(size: Any) -> str:
    return str(size) if isinstance(size, int) else str(getattr(size, "value", size) or "?").replace(" ", "")


def _dtype(dtype: ir.DataType) -> str:
    from onnx_ir.tensor_adapters import to_torch_dtype

    try:
        return dtype_text(to_torch_dtype(dtype))
    except TypeError:
        return dtype.name.lower()
