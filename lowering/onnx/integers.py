"""Products in 8-bit integers: weights per output channel, activations by their range at run time or a calibrated one.

| mode | activations | what is emitted for `MatMul` and `Gemm` with a constant matrix |
|---|---|---|
| `dynamic` | range of each call | `DynamicQuantizeLinear`, `MatMulInteger`, which ONNX Runtime fuses |
| `static` | range over the calibration inputs | `QuantizeLinear` and `DequantizeLinear` around the float operator |

A matrix that an embedding reads too is stored once, in integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor

FLOAT, INT8, UINT8 = ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.UINT8
Range = tuple[float, float]


def products(model: ir.Model) -> list[ir.Node]:
    """The products with a constant matrix."""
    return [node for node in model.graph if _matrix(node) is not None]


def quantize(model: ir.Model, ranges: Mapping[str, Range] | None = None) -> int:
    """Convert the products of a model in place.

    Args:
        model: A model in float32.
        ranges: Smallest and largest value of the products' inputs by name; None for ranges at run time. A product
            whose input has no range stays as it is.

    Returns:
        Number of products converted.
    """
    converter = _Converter(model.graph, ranges)
    found = [node for node in products(model) if ranges is None or str(node.inputs[0].name) in ranges]  # type: ignore[union-attr]
    for node in found:
        converter.convert(node)
    converter.finish()
    return len(found)


def _matrix(node: ir.Node) -> tuple[ir.Value, bool] | None:
    """The constant matrix of a product and whether its rows are the outputs; None where there is none."""
    plain = node.op_type == "MatMul" or (node.op_type == "Gemm" and _plain_gemm(node))
    weight = node.inputs[1] if plain else None
    if weight is None or weight.dtype != FLOAT:
        return None
    turned = node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
    producer = weight.producer()
    if producer is not None and producer.op_type == "Transpose" and producer.inputs[0] is not None:
        weight, turned = producer.inputs[0], not turned
    tensor = weight.const_value
    return (weight, turned) if tensor is not None and len(tensor.shape) == 2 and tensor.nbytes > 4096 else None


def _plain_gemm(node: ir.Node) -> bool:
    numbers = (node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0))
    return numbers == (1.0, 1.0) and not node.attributes.get_int("transA", 0)


class _Converter:
    def __init__(self, graph: ir.Graph, ranges: Mapping[str, Range] | None) -> None:
        self.graph, self.ranges = graph, ranges
        self.weights: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        self.activations: dict[ir.Value, Any] = {}
        self.count = 0

    def convert(self, node: ir.Node) -> None:
        """Replace one product."""
        matrix = _matrix(node)
        assert matrix is not None and node.inputs[0] is not None
        weight, scales = self._weight(*matrix)
        self._where = node
        if matrix[1]:
            weight = self._op("Transpose", weight, dtype=INT8, perm=[1, 0])
        product = self._dynamic(node.inputs[0], weight, scales) if self.ranges is None else None
        if product is None:
            x = self._calibrated(node.inputs[0])
            matrix_float = self._op("DequantizeLinear", weight, scales, axis=1)
            product = self._op("MatMul", x, matrix_float)
        if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
            product = self._op("Add", product, node.inputs[2])
        output = node.outputs[0]
        ir.convenience.replace_all_uses_with(output, product, replace_graph_outputs=True)
        product.name, product.shape, output.name = output.name, output.shape, f"{output.name}.float"
        self.graph.remove(node, safe=True)

    def finish(self) -> None:
        """Let embeddings read the integers, and drop what nothing reads any more."""
        for value, (integers, scales) in self.weights.items():
            for node in [usage.node for usage in value.uses()]:
                if node.op_type == "Gather" and node.inputs[0] is value and not node.attributes.get_int("axis", 0):
                    self._gather(node, integers, scales)
        from onnx_ir.passes import common

        common.RemoveUnusedNodesPass()(ir.Model(self.graph, ir_version=10))

    def _gather(self, node: ir.Node, integers: ir.Value, scales: ir.Value) -> None:
        self._where = node
        rows = self._op("Cast", self._op("Gather", integers, node.inputs[1], dtype=INT8), to=int(FLOAT))
        factors = self._op(
            "Unsqueeze", self._op("Gather", scales, node.inputs[1]), self._const("last", torch.tensor([-1]))
        )
        result, output = self._op("Mul", rows, factors), node.outputs[0]
        ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
        result.name, result.shape, output.name = output.name, output.shape, f"{output.name}.float"
        self.graph.remove(node, safe=True)

    # ---- products ----------------------------------------------------------------------------

    def _dynamic(self, x: ir.Value, weight: ir.Value, scales: ir.Value) -> ir.Value:
        if x not in self.activations:
            self.activations[x] = self._ops("DynamicQuantizeLinear", (x,), (UINT8, FLOAT, UINT8))
        integers, scale, zero = self.activations[x]
        product = self._op("MatMulInteger", integers, weight, zero, dtype=ir.DataType.INT32)
        return self._op("Mul", self._op("Cast", product, to=int(FLOAT)), self._op("Mul", scale, scales))

    def _calibrated(self, x: ir.Value) -> ir.Value:
        assert self.ranges is not None
        if x not in self.activations:
            low, high = self.ranges[str(x.name)]
            low, high = min(low, 0.0), max(high, 0.0)
            scale = max((high - low) / 255, 1e-12)
            parts = (
                self._const(f"{x.name}.scale", torch.tensor(scale)),
                self._const(f"{x.name}.zero", torch.tensor(round(-low / scale), dtype=torch.uint8)),
            )
            integers = self._op("QuantizeLinear", x, *parts, dtype=UINT8)
            self.activations[x] = self._op("DequantizeLinear", integers, *parts)
        return self.activations[x]

    def _weight(self, value: ir.Value, rows: bool) -> tuple[ir.Value, ir.Value]:
        """Integers of a matrix, and one factor for each output."""
        if value not in self.weights:
            tensor, axis = value.const_value, 0 if rows else 1
            shape = tensor.shape  # type: ignore[union-attr]
            integers = self._lazy(f"{value.name}.int8", INT8, shape, lambda: _integers(tensor, axis)[0])
            scales = self._lazy(f"{value.name}.scale", FLOAT, [shape[axis]], lambda: _integers(tensor, axis)[1])
            self.weights[value] = (integers, scales)
        return self.weights[value]

    # ---- making values -----------------------------------------------------------------------

    def _lazy(self, name: str, dtype: ir.DataType, shape: Any, read: Any) -> ir.Value:
        data = ir.LazyTensor(lambda: TorchTensor(read(), name=name), dtype=dtype, shape=ir.Shape(shape), name=name)
        value = ir.Value(name=name, shape=data.shape, type=ir.TensorType(dtype), const_value=data)
        self.graph.initializers.add(value)
        return value

    def _const(self, name: str, tensor: torch.Tensor) -> ir.Value:
        if name in self.graph.initializers:
            return self.graph.initializers[name]
        data = TorchTensor(tensor, name=name)
        value = ir.Value(name=name, shape=data.shape, type=ir.TensorType(data.dtype), const_value=data)
        self.graph.initializers.add(value)
        return value

    def _op(self, kind: str, *inputs: ir.Value | None, dtype: ir.DataType = FLOAT, **attributes: Any) -> ir.Value:
        return self._ops(kind, inputs, (dtype,), **attributes)[0]

    def _ops(self, kind: str, inputs: Any, dtypes: tuple[ir.DataType, ...], **attributes: Any) -> tuple[ir.Value, ...]:
        self.count += 1
        name = f"{self._where.name}.{kind}.{self.count}"
        outputs = [ir.Value(name=f"{name}.{i}", type=ir.TensorType(dtype)) for i, dtype in enumerate(dtypes)]
        attrs = ir.convenience.convert_attributes(attributes)
        node = ir.Node("", kind, inputs, attrs, outputs=outputs, name=name, metadata_props=self._where.metadata_props)
        self.graph.insert_before(self._where, node)
        return tuple(outputs)


def _integers(tensor: Any, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers from -127 to 127 and the factor of each slice along `axis`."""
    full = tensor.raw.detach() if isinstance(tensor, TorchTensor) else torch.from_numpy(tensor.numpy().copy())
    largest = full.abs().amax(1 - axis, keepdim=True).clamp(min=1e-12)
    integers = (full / largest * 127).round().to(torch.int8)
    return integers, (largest / 127).flatten().to(torch.float32)
