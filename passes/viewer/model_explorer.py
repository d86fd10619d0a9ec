"""A trace as a graph collection of Google Model Explorer: modules are layers, the diff is in colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from graphwright.ir.format import format_bytes, format_call
from graphwright.ir.record import NodeRecord
from graphwright.ir.snapshot import Snapshot
from graphwright.passes.viewer.data import module_of

if TYPE_CHECKING:
    from graphwright.passes.trace import PassRecord, Trace

_COLOURS = {"removed": "#fdd8d5", "added": "#d2f2da", "changed": "#fdeac2"}


def model_explorer_graphs(trace: Trace) -> dict[str, Any]:
    """The program before the first pass and after each pass that changed it.

    Returns:
        A JSON-able graph collection; write it to a `.json` file and open that with Model Explorer. In each graph,
        what the next pass removes is red, what the last one added is green, and what it changed is yellow.
    """
    changing = [record for record in trace.records if record.changed]
    shown = changing or trace.records[:1]
    label = shown[0].before.name if shown else "program"
    graphs = [_graph(f"0 {label}", shown[0].before, _marks(None, shown[0]))] if shown else []
    for i, record in enumerate(changing):
        following = changing[i + 1] if i + 1 < len(changing) else None
        graphs.append(_graph(f"{i + 1} after {record.name}", record.after, _marks(record, following)))
    return {"label": label, "graphs": graphs}


def _marks(before: PassRecord | None, after: PassRecord | None) -> dict[str, str]:
    """Name of a node -> what happened to it in the pass before, or will in the one after."""
    marks: dict[str, str] = {}
    if before is not None:
        marks |= {new.name: "changed" for _, new in before.diff.changes.changed}
        marks |= {record.name: "added" for record in before.diff.changes.added}
    if after is not None:
        marks |= {record.name: "removed" for record in after.diff.changes.removed}
    return marks


def _graph(name: str, snapshot: Snapshot, marks: Mapping[str, str]) -> dict[str, Any]:
    sizes = {record.name: record.bytes for record in snapshot.state}
    return {"id": name, "nodes": [_node(record, sizes, marks.get(record.name)) for record in snapshot.nodes]}


def _node(record: NodeRecord, sizes: Mapping[str, int], mark: str | None) -> dict[str, Any]:
    attributes = {"name": record.name, "call": format_call(record), "module": record.path, "source": record.source}
    if record.op == "get_attr" and record.target in sizes:
        attributes["state"] = format_bytes(sizes[record.target])
    if mark:
        attributes["diff"] = mark
    node: dict[str, Any] = {
        "id": record.name,
        "label": record.target if record.op in ("placeholder", "get_attr") else record.operation,
        "namespace": module_of(record).replace(".", "/"),
        "attrs": _attributes(attributes.items()),
        "incomingEdges": [
            {"sourceNodeId": name, "sourceNodeOutputId": "0", "targetNodeInputId": str(i)}
            for i, name in enumerate(record.inputs())
        ],
        "outputsMetadata": [{"id": "0", "attrs": _attributes([("tensor_shape", record.type)])}] if record.type else [],
    }
    return node | ({"style": {"backgroundColor": _COLOURS[mark]}} if mark else {})


def _attributes(pairs: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in pairs if value]
