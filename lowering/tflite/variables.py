"""Caches that the runtime keeps between calls: inputs and outputs of a cache become variables of the model.

All signatures of a file share them, so that one reads a prompt and another one continues token by token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphwright.lowering.tflite.graph import Graph, Operator, Value

RESET, LOAD, STORE = "reset_cache", "load_cache", "store_cache"
"""Signatures that fill the variables with zeros, with given values, and that return them."""

Pairs = dict[str, str]


def pairs_of(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Pairs:
    """Output -> input of each part of a cache of fixed size, among what has names, shapes and types."""
    pairs: Pairs = {}
    for name, value in outputs.items():
        source = name.replace("present", "past_key_values", 1)
        given = inputs.get(source)
        if source != name and given is not None and (given.shape, given.dtype) == (value.shape, value.dtype):
            pairs[name] = source
    return pairs


def hold(graph: Graph, pairs: Pairs) -> None:
    """Replace inputs and outputs of a cache by variables, in place."""
    before: list[Operator] = []
    after: list[Operator] = []
    for output, source in pairs.items():
        given, value = graph.inputs.pop(source), graph.outputs.pop(output)
        handle = _handle(before, source)
        before.append(Operator("READ_VARIABLE", [handle], [given]))
        after.append(Operator("ASSIGN_VARIABLE", [handle, value], []))
    graph.operators = [*before, *graph.operators, *after]


def keepers(caches: Mapping[str, Value]) -> Sequence[Graph]:
    """The signatures that reset, load and store a cache.

    Args:
        caches: Its inputs by name.
    """
    reset, load, store = Graph(RESET), Graph(LOAD), Graph(STORE)
    for name, given in caches.items():
        zeros = Value(given.shape, given.dtype, name=f"{name}.zeros")
        reset.operators.append(_filled(zeros))
        value = load.inputs[name] = Value(given.shape, given.dtype, name=name)
        for graph, source in ((reset, zeros), (load, value)):
            graph.operators.append(Operator("ASSIGN_VARIABLE", [_handle(graph.operators, name), source], []))
        store.outputs[name] = Value(given.shape, given.dtype, name=name)
        store.operators.append(Operator("READ_VARIABLE", [_handle(store.operators, name)], [store.outputs[name]]))
    return reset, load, store


def _handle(operators: list[Operator], name: str) -> Value:
    handle = Value((), "resource", name=f"{name}.handle")
    operators.append(Operator("VAR_HANDLE", [], [handle], {"container": b"", "sharedName": name.encode()}))
    return handle


def _filled(value: Value) -> Operator:
    shape = Value((value.rank,), "int32", np.array(value.shape, np.int32))
    zero = Value((), value.dtype, np.zeros((), value.dtype))
    return Operator("FILL", [shape, zero], [value])
