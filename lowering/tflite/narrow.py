"""Integers in 32 bits, which are what LiteRT's newer runtime takes and what most delegates compute in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graphwright.lowering.interface import Interface
from graphwright.lowering.tflite.graph import Graph, Operator, Value


def narrow(graph: Graph) -> None:
    """Turn int64 into int32 throughout, in place; constants beyond its range become its limits."""
    limits = np.iinfo(np.int32)
    for value in graph.values():
        if value.dtype == "int64":
            value.dtype = "int32"
            value.data = None if value.data is None else value.data.clip(limits.min, limits.max).astype(np.int32)
    _drop_casts(graph)


def _drop_casts(graph: Graph) -> None:
    """Let the readers of a cast that changes nothing read what it reads."""
    same: dict[Value | None, Value | None] = {}
    kept = []
    for operator in graph.operators:
        operator.inputs = [same.get(value, value) for value in operator.inputs]
        source = operator.inputs[0] if operator.code == "CAST" else None
        if source is not None and source.dtype == operator.outputs[0].dtype and not _is_output(graph, operator):
            same[operator.outputs[0]] = source
        else:
            kept.append(operator)
    graph.operators = kept


def _is_output(graph: Graph, operator: Operator) -> bool:
    return operator.outputs[0] in graph.outputs.values()


def narrowed(interface: Interface) -> Interface:
    """An interface of 32-bit integers."""
    ports = [
        tuple(replace(port, dtype="int32") if port.dtype == "int64" else port for port in side)
        for side in (interface.inputs, interface.outputs)
    ]
    return replace(interface, inputs=ports[0], outputs=ports[1])
