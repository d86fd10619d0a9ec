"""Constant factors and shifts that become part of the weights of a neighbouring product."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphwright.lowering.tflite.graph import Graph, Operator, Value

_MOVES = ("RESHAPE", "TRANSPOSE")


def simplify(graph: Graph) -> None:
    """Fold what multiplies the result of a product, and what scales and shifts the input of products."""
    _Folding(graph).run()


class _Folding:
    """State of one run over a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.outputs = graph, set(graph.outputs.values())
        self.readers: Mapping[Value, list[Operator]] = {}
        self.producers: dict[Value, Operator] = {}

    def run(self) -> None:
        for operator in list(self.graph.operators):
            self.readers = self.graph.readers() if not self.readers else self.readers
            self.producers = self.producers or {v: o for o in self.graph.operators for v in o.outputs}
            if self._folded(operator):
                self.readers, self.producers = {}, {}
        self.graph.prune()

    def _folded(self, operator: Operator) -> bool:
        if operator.code == "MUL":
            return self._scale_result(operator) or self._scale_inputs(operator, None)
        return operator.code == "ADD" and self._shift_inputs(operator)

    def _is_plain(self, operator: Operator) -> bool:
        """Whether an operator is a product with a float constant that nobody else reads."""
        if operator.code != "FULLY_CONNECTED":
            return False
        weight, bias = operator.inputs[1:]
        known = weight is not None and weight.data is not None and weight.is_float
        return known and len(self.readers[weight]) == 1 and (bias is None or bias.data is not None)

    # ---- after a product ---------------------------------------------------------------------

    def _scale_result(self, operator: Operator) -> bool:
        """`(x @ W + b) * c`, moved or not, as a product with `W * c` and `b * c`."""
        source, factor = _with_constant(operator)
        if source is None or factor is None or factor.size != 1 or operator.outputs[0].shape != source.shape:
            return False
        product = self._product_behind(source)
        if product is None or operator.outputs[0] in self.outputs or operator.options:
            return False
        weight, bias = product.inputs[1:]
        assert weight is not None and factor.data is not None
        product.inputs[1] = _changed(weight, weight.data * factor.data.reshape(()), "scaled")
        product.inputs[2] = None if bias is None else _changed(bias, bias.data * factor.data.reshape(()), "scaled")
        self._replace(operator.outputs[0], source)
        return True

    def _product_behind(self, value: Value | None) -> Operator | None:
        """The product that a value is moved from, if nobody else reads anything on the way."""
        while value is not None and value not in self.outputs and len(self.readers.get(value, ())) == 1:
            producer = self.producers.get(value)
            if producer is None or producer.code not in (*_MOVES, "FULLY_CONNECTED"):
                return None
            if producer.code == "FULLY_CONNECTED":
                plain = self._is_plain(producer) and not producer.options.get("fusedActivationFunction")
                return producer if plain else None
            value = producer.inputs[0]
        return None

    # ---- in front of products ----------------------------------------------------------------

    def _shift_inputs(self, operator: Operator) -> bool:
        """`x * s + t` in front of products."""
        source, shift = _with_constant(operator)
        producer = None if source is None else self.producers.get(source)
        if shift is None or producer is None or producer.code != "MUL" or len(self.readers[source]) > 1:  # type: ignore[index]
            return False
        return self._scale_inputs(producer, operator)

    def _scale_inputs(self, scale: Operator, shift: Operator | None) -> bool:
        """Products whose input is `x * s`, or `x * s + t`, as products with `x`."""
        result = (shift or scale).outputs[0]
        source, factor = _with_constant(scale)
        offset = None if shift is None else _with_constant(shift)[1]
        readers = self.readers.get(result, [])
        width = result.shape[-1:] if result.shape else ()
        if source is None or factor is None or source.shape != result.shape or result in self.outputs or not readers:
            return False
        if any(part is not None and (part.shape != width or part.data is None) for part in (factor, offset)):
            return False
        if not all(self._is_plain(reader) and reader.inputs[0] is result for reader in readers):
            return False
        for reader in readers:
            _absorb(reader, source, factor, offset)
        return True

    def _replace(self, old: Value, new: Value) -> None:
        for reader in self.readers.get(old, []):
            reader.inputs = [new if value is old else value for value in reader.inputs]


def _absorb(product: Operator, source: Value, factor: Value, offset: Value | None) -> None:
    """Make `(x * s + t) @ W.T + b` into `x @ (W * s).T + (b + W @ t)`."""
    weight, bias = product.inputs[1:]
    assert weight is not None and weight.data is not None and factor.data is not None
    if offset is not None and offset.data is not None:
        extra = weight.data.astype(np.float64) @ offset.data
        total = extra if bias is None else extra + bias.data
        name = f"{weight.name}.bias" if bias is None else bias.name
        product.inputs[2] = Value((weight.shape[0],), weight.dtype, total.astype(weight.dtype), f"{name}.shifted")
    product.inputs[:2] = [source, _changed(weight, weight.data * factor.data, "scaled")]


def _with_constant(operator: Operator) -> tuple[Value | None, Value | None]:
    """The computed and the constant operand of an operator of two."""
    left, right = operator.inputs
    if left is None or right is None or operator.options.get("fusedActivationFunction"):
        return None, None
    if right.data is not None:
        return left, right
    return (right, left) if left.data is not None else (None, None)


def _changed(value: Value, data: np.ndarray, how: str) -> Value:
    return Value(value.shape, value.dtype, data.astype(value.dtype), f"{value.name}.{how}")
