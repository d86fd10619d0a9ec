"""Graphs that compute in integers: int8, or int16 with int8 weights, by ranges from calibration.

Products and what lies between them are integers; norms, sums with masks and softmax stay float, as their ranges are
too wide for 8 bits. `QUANTIZE` and `DEQUANTIZE` stand where one meets the other.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphwright.lowering.tflite.calibrate import Range
from graphwright.lowering.tflite.compress import PRODUCTS, quantized_weight
from graphwright.lowering.tflite.graph import Graph, Operator, Quantization, Value

MOVES = frozenset(["RESHAPE", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "MAX_POOL_2D", "GATHER"])
"""Operators that leave scale and zero point as they are."""

FOLLOWERS = frozenset(["ADD", "GELU", "LOGISTIC", "TANH", "AVERAGE_POOL_2D"])
"""Operators that are integers where all they read is."""

FIXED = {"LOGISTIC": {"int8": (1 / 256, -128), "int16": (1 / 32768, 0)},
         "TANH": {"int8": (1 / 128, 0), "int16": (1 / 32768, 0)}}  # fmt: skip
"""Scale and zero point of results that kernels insist on."""

WIDEST = 1e4
"""Magnitude above which 8 bits say nothing: masks."""

VERSIONS = {
    "FULLY_CONNECTED": (4, 7), "CONV_2D": (3, 4), "DEPTHWISE_CONV_2D": (3, 5), "BATCH_MATMUL": (2, 3), "ADD": (2, 3),
    "GELU": (2, 2), "LOGISTIC": (2, 3), "TANH": (2, 3), "AVERAGE_POOL_2D": (2, 3), "MAX_POOL_2D": (2, 3),
    "RESHAPE": (1, 1), "TRANSPOSE": (2, 5), "SLICE": (2, 4), "STRIDED_SLICE": (2, 4), "GATHER": (2, 4),
}  # fmt: skip
"""Versions of the operators on int8 and on int16."""


def quantize(graph: Graph, ranges: Mapping[Value, Range], activations: str) -> None:
    """Turn products and their surroundings into integers, in place.

    Args:
        graph: In float32.
        ranges: Smallest and largest entry of each value.
        activations: `i8` or `i16`.
    """
    _Quantizer(graph, ranges, "int8" if activations == "i8" else "int16").run()


class _Quantizer:
    """State of one run."""

    def __init__(self, graph: Graph, ranges: Mapping[Value, Range], dtype: str) -> None:
        self.graph, self.ranges, self.dtype = graph, ranges, dtype
        self.integers: dict[Value, Value] = {}
        self.floats: dict[Value, Value] = {}
        self.replaced: set[Value] = set()
        self.operators: list[Operator] = []

    def run(self) -> None:
        for operator in self.graph.operators:
            if self._is_integer(operator):
                self._quantize(operator)
            else:
                operator.inputs = [value and self._float(value) for value in operator.inputs]
                self.operators.append(operator)
        outputs = {name: self._float(value) for name, value in self.graph.outputs.items()}
        self.graph.outputs, self.graph.operators = outputs, self.operators
        self.graph.prune()

    def _is_integer(self, operator: Operator) -> bool:
        result = operator.outputs[0]
        if not result.is_float or not self._fits(result):
            return False
        computed = [value for value in operator.inputs if value is not None and value.data is None and value.is_float]
        if not all(self._fits(value) for value in computed):
            return False
        if operator.code in PRODUCTS:
            return bool(operator.inputs[1] and operator.inputs[1].data is not None and operator.inputs[1].is_float)
        if operator.code == "BATCH_MATMUL":
            return len(computed) == 2
        followed = bool(computed) and all(value in self.integers for value in computed)
        known = operator.code in MOVES or operator.code in FOLLOWERS
        return known and followed and (operator.code in MOVES or len(computed) == len(operator.inputs))

    def _fits(self, value: Value) -> bool:
        return value in self.ranges and max(map(abs, self.ranges[value])) < WIDEST

    def _quantize(self, operator: Operator) -> None:
        result = operator.outputs[0]
        if operator.code in PRODUCTS:
            self._product(operator)
        else:
            operator.inputs = [self._integer(v) if v is not None and v.is_float else v for v in operator.inputs]
        source = operator.inputs[0]
        moved = source.quantization if operator.code in MOVES and source is not None else None
        self.integers[result] = self._made(result, moved or self._fixed(operator.code) or self._parameters(result))
        operator.outputs = [self.integers[result]]
        self.replaced.add(result)
        operator.version = VERSIONS[operator.code][self.dtype == "int16"]
        self.operators.append(operator)

    def _product(self, operator: Operator) -> None:
        data, weight, *bias = operator.inputs
        assert data is not None and weight is not None
        inputs = self._integer(data)
        matrix = quantized_weight(weight, 8, 0, 3 if operator.code == "DEPTHWISE_CONV_2D" else 0)
        operator.inputs = [inputs, matrix]
        if bias and bias[0] is not None:
            operator.inputs.append(self._bias(bias[0], inputs, matrix))

    def _bias(self, bias: Value, inputs: Value, weight: Value) -> Value:
        """A bias in the scale of the products: int32, or int64 beside int16."""
        assert bias.data is not None and inputs.quantization is not None and weight.quantization is not None
        scales = inputs.quantization.scales[0].astype(np.float64) * weight.quantization.scales
        dtype = "int32" if self.dtype == "int8" else "int64"
        limit = 2**31 - 1
        codes = np.clip(np.rint(bias.data / scales), -limit, limit).astype(dtype)
        zeros = np.zeros(len(scales), np.int64)
        return Value(bias.shape, dtype, codes, bias.name, Quantization(scales.astype(np.float32), zeros))

    # ---- from one to the other ---------------------------------------------------------------

    def _integer(self, value: Value) -> Value:
        """A float value as integers."""
        if value not in self.integers:
            self.integers[value] = self._made(value, self._parameters(value))
            version = 1 if self.dtype == "int8" else 2
            self.operators.append(Operator("QUANTIZE", [self._float(value)], [self.integers[value]], version=version))
        return self.integers[value]

    def _float(self, value: Value) -> Value:
        """A value as floats: what an operator made as integers is dequantized once."""
        if value not in self.replaced:
            return value
        if value not in self.floats:
            self.floats[value] = Value(value.shape, value.dtype, name=value.name)
            self.operators.append(Operator("DEQUANTIZE", [self.integers[value]], [self.floats[value]], version=2))
        return self.floats[value]

    def _made(self, value: Value, quantization: Quantization) -> Value:
        return Value(value.shape, self.dtype, name=f"{value.name}.integers", quantization=quantization)

    def _fixed(self, code: str) -> Quantization | None:
        known = FIXED.get(code)
        return None if known is None else Quantization.of(*known[self.dtype])

    def _parameters(self, value: Value) -> Quantization:
        """Scale and zero point for a range: any zero point for int8, none for int16."""
        low, high = self.ranges[value]
        if self.dtype == "int16":
            return Quantization.of(max(-low, high, 1e-6) / 32767)
        scale = max(high - low, 1e-6) / 255
        return Quantization.of(scale, int(np.clip(round(-128 - low / scale), -128, 127)))
