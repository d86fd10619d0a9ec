"""From a program to an OpenVINO model: inputs, every call through its emitter, outputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import openvino as ov
import torch
from torch.fx import Node

from graphwright.ir.program import Program
from graphwright.lowering.call_emitter import StateEmitter
from graphwright.lowering.interface import Interface, Port
from graphwright.lowering.openvino.builder import TYPES, Builder, Value, constant, op
from graphwright.lowering.openvino.table import TABLE


@dataclass
class Emitted:
    """What `emit_model` returns.

    Args:
        model: The `openvino.Model`.
        provenance: Program node -> names of the operators that it became.
        kept: Memory that the model's constants are in; it must live as long as the model.
    """

    model: Any
    provenance: dict[str, list[str]]
    kept: list[Any] = field(default_factory=list)


def emit_model(program: Program, weights: str = "") -> Emitted:
    """The OpenVINO model of a program whose calls all have emitters.

    Args:
        program: A legalised program.
        weights: See `OpenVINOTarget`.
    """
    return _Emitter(program, weights).emitted()


class _Emitter(StateEmitter):
    """State of one emission."""

    label = "OpenVINO"

    def __init__(self, program: Program, weights: str) -> None:
        super().__init__(program, Builder(), TABLE)
        self.compression = weights
        self.interface = Interface.of(program)

    def emitted(self) -> Emitted:
        parameters = [self._input(port) for port in self.interface.inputs]
        self.emit_calls()
        results = [self._output(port) for port in self.interface.outputs]
        model = ov.Model(results, parameters, self.program.name)
        model.validate_nodes_and_infer_types()
        return Emitted(model, self.builder.provenance, self.builder.kept)

    # ---- interface ---------------------------------------------------------------------------

    def _input(self, port: Port) -> Any:
        node = self.program.placeholders[port.leaf]
        shape = ov.PartialShape([self._dimension(size) for size in port.shape])
        parameter = op.parameter(shape, TYPES[port.torch_dtype()], name=port.name)
        parameter.output(0).get_tensor().set_names({port.name})
        value = Value(parameter.output(0), node.meta["val"])
        self.values[node] = value
        self.builder.learn(value)
        return parameter

    def _dimension(self, size: int | str) -> Any:
        if isinstance(size, int):
            return ov.Dimension(size)
        info = self.interface.dims.get(size)
        if info is None:
            return ov.Dimension(-1)
        return ov.Dimension(info.min, -1 if info.max is None else info.max)

    def _output(self, port: Port) -> Any:
        value = self.value(self.program.results[port.leaf])
        out = self.builder.scalar(value, port.torch_dtype())
        if out.get_node().get_type_name() == "Constant":
            out = op.convert(out, TYPES[port.torch_dtype()]).output(0)
        result = op.result(out, name=port.name)
        result.output(0).get_tensor().set_names({port.name})
        return result

    # ---- calls -------------------------------------------------------------------------------

    def finish(self, node: Node, result: Any) -> Any:
        return self._wrapped(result, node.meta.get("val"))

    def _wrapped(self, result: Any, fake: Any) -> Any:
        if isinstance(result, list):
            return [self._wrapped(item, one) for item, one in zip(result, fake, strict=False)]
        if isinstance(result, ov.Node):
            result = result.output(0)
        if not isinstance(result, ov.Output) or not isinstance(fake, torch.Tensor):
            return result
        self.builder.label(result)
        value = Value(result, fake)
        self.builder.learn(value)
        return value

    # ---- weights -----------------------------------------------------------------------------

    def stored(self, node: Node, tensor: torch.Tensor, name: str) -> Value:
        return Value(self._constant(node, tensor, name), node.meta["val"])

    def _constant(self, node: Node, tensor: torch.Tensor, name: str) -> Any:
        readers = [user for user in node.users if user not in self.constant]
        if self.compression:
            from graphwright.lowering.openvino.compression import chosen, compressed

            kind = chosen(self.compression, node, tensor, readers)
            if kind:
                return compressed(self.builder, tensor, kind)
        out = constant(tensor, self.builder.kept)
        out.get_node().set_friendly_name(name)
        return out
