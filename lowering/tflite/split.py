"""Products of which only parts are read: one product for each part, of the rows of the weight that make it."""

from __future__ import annotations

from collections.abc import Mapping

from graphwright.lowering.tflite.graph import Graph, Operator, Value


def split_products(graph: Graph) -> None:
    """Replace products that are only read by slices of their last dimension; the slices would be copies."""
    readers, outputs = graph.readers(), set(graph.outputs.values())
    made: list[Operator] = []
    gone: set[Operator] = set()
    for operator in graph.operators:
        if operator in gone:
            continue
        parts = _parts(operator, readers) if operator.outputs[:1] and operator.outputs[0] not in outputs else []
        made += [_product(operator, part) for part in parts] or [operator]
        gone |= set(parts)
    graph.operators = made


def _parts(operator: Operator, readers: Mapping[Value, list[Operator]]) -> list[Operator]:
    """The slices that read a product, if nothing else does."""
    if operator.code != "FULLY_CONNECTED" or operator.options.get("fusedActivationFunction"):
        return []
    weight, bias = operator.inputs[1:]
    known = weight is not None and weight.data is not None and weight.is_float and len(readers[weight]) == 1
    slices = readers.get(operator.outputs[0], [])
    if not known or (bias is not None and bias.data is None) or len(slices) < 2:
        return []
    return slices if all(_cuts_columns(part, operator.outputs[0]) for part in slices) else []


def _cuts_columns(operator: Operator, source: Value) -> bool:
    return operator.code == "SLICE" and operator.outputs[0].shape[:-1] == source.shape[:-1]


def _product(operator: Operator, part: Operator) -> Operator:
    """The product whose result a slice is."""
    data, weight, bias = operator.inputs
    begin, result = part.inputs[1], part.outputs[0]
    assert weight is not None and begin is not None and begin.data is not None
    start = int(begin.data[-1])
    rows = slice(start, start + result.shape[-1])
    inputs = [data, _rows(weight, rows), None if bias is None else _rows(bias, rows)]
    return Operator(operator.code, inputs, [result], dict(operator.options), operator.version, operator.origin)


def _rows(value: Value, rows: slice) -> Value:
    assert value.data is not None
    data = value.data[rows]
    return Value(tuple(data.shape), value.dtype, data, f"{value.name}[{rows.start}:{rows.stop}]")
