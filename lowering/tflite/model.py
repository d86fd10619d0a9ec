"""From a program of fixed sizes to a TFLite graph."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.program import Program
from graphwright.lowering.call_emitter import StateEmitter
from graphwright.lowering.interface import Interface
from graphwright.lowering.tflite.builder import Builder, array_of, type_name
from graphwright.lowering.tflite.fuse import fuse
from graphwright.lowering.tflite.graph import Graph, Value
from graphwright.lowering.tflite.simplify import simplify
from graphwright.lowering.tflite.split import split_products
from graphwright.lowering.tflite.table import TABLE


def emit_graph(program: Program, name: str, packed: str = "exact", composites: bool = False) -> Graph:
    """The graph of a program whose calls all have emitters.

    Args:
        program: A legalised program of fixed sizes.
        name: Name of the subgraph and its signature.
        packed: See `TFLiteTarget`.
        composites: See `TFLiteTarget`.
    """
    return _Emitter(program, Builder(Graph(name), packed == "native", composites)).graph()


class _Emitter(StateEmitter):
    """State of one emission."""

    label = "TFLite"

    def __init__(self, program: Program, builder: Builder) -> None:
        super().__init__(program, builder, TABLE)
        self.interface = Interface.of(program)

    def graph(self) -> Graph:
        graph: Graph = self.builder.graph
        for port in self.interface.inputs:
            shape = tuple(int(size) for size in port.shape)
            value = Value(shape, port.dtype, name=port.name)
            graph.inputs[port.name] = self.values[self.program.placeholders[port.leaf]] = value
        self.emit_calls()
        for port in self.interface.outputs:
            graph.outputs[port.name] = self._output(self.program.results[port.leaf], port.name)
        graph.prune()
        split_products(graph)
        simplify(graph)
        fuse(graph)
        return graph

    def _output(self, result: Any, name: str) -> Value:
        """A value of its own for an output: one that is an input, a constant or another output is copied."""
        value = self.value(result)
        if not isinstance(value, Value):
            value = self.builder.const(int(value), "int64")
        graph: Graph = self.builder.graph
        if value.data is not None or value in (*graph.inputs.values(), *graph.outputs.values()):
            shape = self.builder.const(list(value.shape))
            (value,) = self.builder.ops("RESHAPE", [value, shape], [(value.shape, value.dtype)], 1, copy_for=name)
        value.name = name
        return value

    def finish(self, node: Node, result: Any) -> Any:
        return result

    def stored(self, node: Node, tensor: torch.Tensor, name: str) -> Value:
        return Value(tuple(tensor.shape), type_name(tensor.dtype), array_of(tensor), name)
