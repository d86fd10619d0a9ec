"""Activations that become part of the operator before them, as LiteRT's converters do."""

from __future__ import annotations

from graphwright.lowering.tflite.graph import Graph, Operator

ACTIVATIONS = {"RELU": 1, "RELU6": 3}
"""The schema's numbers for fused activations."""

HOSTS = frozenset(["FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "SUB", "MUL", "DIV"])


def fuse(graph: Graph) -> None:
    """Put each ReLU into the operator whose only reader it is."""
    readers, outputs = graph.readers(), set(graph.outputs.values())
    producers = {value: operator for operator in graph.operators for value in operator.outputs}
    gone: set[Operator] = set()
    for operator in graph.operators:
        source = operator.inputs[0] if operator.inputs else None
        host = producers.get(source) if source is not None else None
        if operator.code not in ACTIVATIONS or host is None or source in outputs:
            continue
        floats = operator.outputs[0].is_float
        if floats and host.code in HOSTS and len(readers[source]) == 1 and not _activated(host):  # type: ignore[index]
            host.options["fusedActivationFunction"] = ACTIVATIONS[operator.code]
            host.outputs = operator.outputs
            gone.add(operator)
    graph.operators = [operator for operator in graph.operators if operator not in gone]


def _activated(operator: Operator) -> bool:
    return bool(operator.options.get("fusedActivationFunction"))
