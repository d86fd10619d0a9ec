"""From a program to an ONNX model: inputs, every call through its emitter, outputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnx_ir.tensor_adapters import from_torch_dtype
from torch.fx import Node

from graphwright.ir.program import Program
from graphwright.lowering.call_emitter import CallEmitter
from graphwright.lowering.dims import dim_text
from graphwright.lowering.interface import Interface, Port
from graphwright.lowering.onnx.in_place import find_caches, learn_length
from graphwright.lowering.onnx.shared import ROWS, find_shared
from graphwright.lowering.onnx.table import TABLE, Emission
from graphwright.lowering.onnx.weights import Weights

IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 11}


class Emitted(NamedTuple):
    """What `emit_model` returns.

    Args:
        model: The model.
        provenance: Names of the operators that each program node became.
        in_place: Whether the caches can be appended to in place.
        shared: Whether the caches of an encoder may have one row for several rows of the batch.
    """

    model: ir.Model
    provenance: dict[str, list[str]]
    in_place: bool
    shared: bool


def emit_model(program: Program, opset: int, packed: str = "dequantize", dialect: str = "onnx") -> Emitted:
    """The ONNX model of a program whose calls all have emitters.

    Args:
        program: A legalised program.
        opset: Version of the default operator set.
        packed: See `OnnxTarget`.
        dialect: See `OnnxTarget`.
    """
    return _Emitter(program, opset, packed, dialect).model()


class _Emitter(CallEmitter):
    """State of one emission."""

    label = "ONNX"

    def __init__(self, program: Program, opset: int, packed: str, dialect: str) -> None:
        self.opset = opset
        self.interface = Interface.of(program)
        self.names = program.dim_names()
        empty = {dim.symbol for dim in program.dims if self.interface.dims[dim.name].min == 0}
        super().__init__(program, Emission(opset, frozenset(empty), packed, dialect), TABLE)
        self.weights = Weights(program, self.builder)
        self.builder.stored_transposed = self.weights.transposed
        self.builder.value_of = self.value
        special = dialect == "ort" and opset >= 23
        self.builder.shared = find_shared(program, self.interface) if special else frozenset()
        caches = find_caches(program, self.interface) if special else None
        self.in_place = caches is not None
        if caches is not None:
            learn_length(self.builder, caches)
        self.taken = {port.name for port in (*self.interface.inputs, *self.interface.outputs)}

    def model(self) -> Emitted:
        inputs = [self._input(port) for port in self.interface.inputs]
        self.emit_calls()
        outputs = [self._output(port, set(inputs)) for port in self.interface.outputs]
        graph = ir.Graph(
            inputs,
            outputs,
            nodes=self.builder.nodes,
            initializers=self._initializers(),
            opset_imports={"": self.opset} | {node.domain: 1 for node in self.builder.nodes if node.domain},
            name=self.program.name,
        )
        model = ir.Model(graph, ir_version=IR_VERSIONS[self.opset], producer_name="graphwright")
        common.RemoveUnusedNodesPass()(model)
        kept = {node.name for node in graph}
        emitted = {name: [op for op in ops if op in kept] for name, ops in self.builder.provenance.items()}
        return Emitted(
            model, {name: ops for name, ops in emitted.items() if ops}, self.in_place, bool(self.builder.shared)
        )

    # ---- interface ---------------------------------------------------------------------------

    def _input(self, port: Port) -> ir.Value:
        node = self.program.placeholders[port.leaf]
        shape = (ROWS, *port.shape[1:]) if node in self.builder.shared else port.shape
        value = ir.Value(name=port.name, shape=ir.Shape(shape), type=_tensor_type(port))
        self.values[node] = value
        self._learn(value, node.meta["val"])
        return value

    def _output(self, port: Port, inputs: set[ir.Value]) -> ir.Value:
        result = self.program.results[port.leaf]
        value = self.value(result)
        if isinstance(value, ir.Value):
            value = self.builder.instead.get(value, value)
        if isinstance(value, torch.SymInt | int):
            value = self.builder.sizes.scalar(value)
        if value in inputs or value.const_value is not None or value.name in self.taken:
            value = self.builder._emit("Identity", (value,), (port.torch_dtype(),), {})[0]
        value.name, value.shape, value.type = port.name, ir.Shape(port.shape), _tensor_type(port)
        return value

    def _initializers(self) -> list[ir.Value]:
        """Initializers that are read, each under a name of its own."""
        used = [value for value in self.builder.initializers if value.uses()]
        for value in used:
            if value.name in self.taken:
                value.name = f"state.{value.name}"
        return used

    # ---- calls -------------------------------------------------------------------------------

    def finish(self, node: Node, result: Any) -> Any:
        self._name(node, result)
        return result

    def is_weight(self, node: Node) -> bool:
        return node in self.weights

    def weight(self, node: Node) -> Any:
        fake = node.meta["val"]
        if isinstance(fake, torch.Tensor):
            return self.weights.value(node)
        return [self.weights.value(user) for user in node.users]

    def _name(self, node: Node, result: Any) -> None:
        """Give results the name of their node, and what torch knows about them."""
        fakes: Any = node.meta.get("val")
        pairs = zip(result, fakes, strict=False) if isinstance(result, list) else [(result, fakes)]
        for i, (value, fake) in enumerate(pairs):
            if not isinstance(value, ir.Value) or not isinstance(fake, torch.Tensor):
                continue
            name = node.name if not isinstance(result, list) else f"{node.name}.{i}"
            if value.name is None and name not in self.taken:
                value.name = name
                value.shape = ir.Shape([dim_text(size, self.names) for size in fake.shape])
            self._learn(value, fake)

    def _learn(self, value: ir.Value, fake: torch.Tensor) -> None:
        self.builder.annotate(value, fake)
        self.builder.sizes.learn(value, fake)


def _tensor_type(port: Port) -> ir.TensorType:
    return ir.TensorType(from_torch_dtype(port.torch_dtype()))
