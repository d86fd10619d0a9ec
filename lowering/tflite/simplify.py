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
        return operator.code == "ADD" and (self._shift_inputs(operator) or self._shift_onwards(operator))

    def _is_plain(self, operator: Operator) -> bool:
        """Whether an operator is a product with a float constant that nobody else reads."""
        if operator.code != "FULLY_CONNECTED":
            return False
        weight, bias = operator.inputs[1:]
        if weight is None or weight.data is None or not weight.is_float:
            return False
        return len(self.readers[weight]) == 1 and (bias is None or bias.data is not None)

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

    def _shift_onwards(self, shift: Operator) -> bool:
        """`x + t` that products and sums with a product read: `t` goes into the biases of both."""
        source, offset = _with_constant(shift)
        result = shift.outputs[0]
        if source is None or offset is None or offset.shape != result.shape[-1:] or source.shape != result.shape:
            return False
        readers = [] if result in self.outputs else self.readers.get(result, [])
        sums = {reader: self._added_product(reader, result) for reader in readers if reader.code == "ADD"}
        products = [reader for reader in readers if self._is_plain(reader) and reader.inputs[0] is result]
        if not sums or None in sums.values() or len(sums) + len(products) != len(readers):
            return False
        for product in products:
            _absorb(product, source, None, offset)
        for product in filter(None, sums.values()):
            _raise_bias(product, offset)
        self._replace(result, source)
        return True

    def _added_product(self, operator: Operator, term: Value) -> Operator | None:
        """The product that a sum adds to a term, if nobody else reads it."""
        other = next((value for value in operator.inputs if value is not term and value is not None), None)
        product = None if other is None else self.producers.get(other)
        alone = other is not None and other.shape == term.shape and len(self.readers[other]) == 1
        if product is None or not alone or other in self.outputs or not self._is_plain(product):
            return None
        return None if product.options.get("fusedActivationFunction") else product

    def _replace(self, old: Value, new: Value) -> None:
        for reader in self.readers.get(old, []):
            reader.inputs = [new if value is old else value for value in reader.inputs]


def _absorb(product: Operator, source: Value, factor: Value | None, offset: Value | None) -> None:
    """Make `(x * s + t) @ W.T + b` into `x @ (W * s).T + (b + W @ t)`."""
    weight = product.inputs[1]
    assert weight is not None and weight.data is not None
    if offset is not None and offset.data is not None:
        extra = weight.data.astype(np.float64) @ offset.data
        _raise_bias(product, Value((weight.shape[0],), weight.dtype, extra, f"{weight.name}.bias"))
    product.inputs[0] = source
    if factor is not None and factor.data is not None:
        product.inputs[1] = _changed(weight, weight.data * factor.data, "scaled")


def _raise_bias(product: Operator, extra: Value) -> None:
    """Add to the bias of a product."""
    bias = product.inputs[2]
    assert extra.data is not None
    if bias is None:
        product.inputs[2] = _changed(extra, extra.data, "shifted")
    else:
        product.inputs[2] = _changed(bias, bias.data + extra.data, "shifted")


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
