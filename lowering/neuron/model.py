"""From a program to a StableHLO module: inputs, weights, every call through its emitter, outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.node import bound, module_path
from graphwright.ir.program import Program
from graphwright.lowering.call_emitter import CallEmitter
from graphwright.lowering.fold import constant_nodes, evaluate
from graphwright.lowering.interface import Interface, Port
from graphwright.lowering.neuron.builder import Builder, Value, narrow
from graphwright.lowering.neuron.table import TABLE
from graphwright.lowering.neuron.xla import func, ir, legalize, make_context, with_locations

INLINE = 1 << 12
"""Bytes up to which a value that is no weight is a constant of the module."""
ALIAS = "tf.aliasing_output"  # jaxlib's name for a parameter whose memory an output takes


@dataclass
class Emitted:
    """What `emit_model` returns.

    Args:
        bytecode: The module, whose `main` takes the inputs and then the weights.
        weights: Values of the parameters after the inputs, by name, in order.
        aliases: Output -> input whose memory it takes.
    """

    bytecode: bytes
    weights: dict[str, torch.Tensor]
    aliases: dict[str, str]


def emit_model(program: Program, builder: Builder, aliases: Mapping[str, str] | None = None) -> Emitted:
    """The module of a program of fixed sizes whose calls all have emitters.

    Args:
        program: A legalised program.
        builder: Says in which variant and precision.
        aliases: Output -> input whose memory it takes.
    """
    return _Emitter(program, builder, dict(aliases or {})).emitted()


class _Emitter(CallEmitter):
    """State of one emission."""

    label = "Neuron"

    def __init__(self, program: Program, builder: Builder, aliases: dict[str, str]) -> None:
        super().__init__(program, builder, TABLE)
        self.interface = Interface.of(program)
        self.constant = constant_nodes(program)
        self.aliases = aliases
        self.weights: dict[str, torch.Tensor] = {}
        self._parameters: dict[Node, Any] = {}
        self._constants: dict[Node, Value] = {}

    def emitted(self) -> Emitted:
        with make_context(), ir.Location.unknown():
            module = ir.Module.create()
            module.operation.attributes["sym_name"] = ir.StringAttr.get(self.program.name)
            stored = self._stored()
            with ir.InsertionPoint(module.body):
                function: Any = func.FuncOp("main", ir.FunctionType.get(self._types(stored), []))
            block = function.add_entry_block()
            self._bind(list(block.arguments), stored)
            with ir.InsertionPoint(block):
                self.emit_calls()
                outputs = [self._output(port) for port in self.interface.outputs]
                func.ReturnOp(outputs)
            kinds = ir.FunctionType.get([a.type for a in block.arguments], [out.type for out in outputs])
            function.attributes["function_type"] = ir.TypeAttr.get(kinds)
            function.attributes["arg_attrs"] = ir.ArrayAttr.get(self._attributes(len(block.arguments)))
            legalize(module)
            return Emitted(with_locations(module), self.weights, self.aliases)

    # ---- interface ---------------------------------------------------------------------------

    def _types(self, stored: Mapping[Node, str]) -> list[Any]:
        inputs = [self.program.placeholders[port.leaf].meta["val"] for port in self.interface.inputs]
        tensors = [*inputs, *self.weights.values()]
        return [self.builder.type(tensor.shape, tensor.dtype) for tensor in tensors]

    def _bind(self, arguments: list[Any], stored: Mapping[Node, str]) -> None:
        count = len(self.interface.inputs)
        for port, argument in zip(self.interface.inputs, arguments, strict=False):
            node = self.program.placeholders[port.leaf]
            self.values[node] = Value(argument, node.meta["val"])
        by_name = dict(zip(self.weights, arguments[count:], strict=True))
        self._parameters = {node: by_name[name] for node, name in stored.items()}

    def _attributes(self, count: int) -> list[Any]:
        """Which parameters share the memory of an output."""
        names = [port.name for port in self.interface.inputs]
        places = {port.name: i for i, port in enumerate(self.interface.outputs)}
        kind = ir.IntegerType.get_signless(32)
        alias = {names.index(source): places[output] for output, source in self.aliases.items()}
        return [
            ir.DictAttr.get({ALIAS: ir.IntegerAttr.get(kind, alias[i])} if i in alias else {}) for i in range(count)
        ]

    def _output(self, port: Port) -> Any:
        value = self.value(self.program.results[port.leaf])
        return self.builder.scalar(value, narrow(port.torch_dtype()))

    # ---- calls -------------------------------------------------------------------------------

    def is_weight(self, node: Node) -> bool:
        return node.op == "get_attr" or node in self.constant

    def _call(self, node: Node) -> None:
        path = module_path(node)
        with ir.Location.name(f"{path}/{node.name}" if path else node.name):
            super()._call(node)

    def finish(self, node: Node, result: Any) -> Any:
        return _wrapped(result, node.meta.get("val"))

    # ---- weights -----------------------------------------------------------------------------

    def _stored(self) -> dict[Node, str]:
        """The nodes whose values are parameters, and the names of these; equal tensors of the state are one."""
        names: dict[Any, str] = {}
        stored: dict[Node, str] = {}
        for node in self.program.graph.nodes:
            if self._is_read(node) and not self._is_inline(node):
                value = self._value(node)
                key = _identity(value) if node.op == "get_attr" else node
                name = str(node.target) if node.op == "get_attr" else f"folded.{node.name}"
                stored[node] = names.setdefault(key, name)
                self.weights.setdefault(stored[node], self._rounded(node, value))
        return stored

    def _is_read(self, node: Node) -> bool:
        """Whether a node is known before the model runs and something that is emitted reads it."""
        if not self.is_weight(node) or not isinstance(node.meta.get("val"), torch.Tensor):
            return False
        return any(user not in self.constant for user in node.users)

    def _is_inline(self, node: Node) -> bool:
        """Small values that are no weights: computed from numbers alone, or positions and masks that passes stored."""
        fake = node.meta["val"]
        is_weight = fake.is_floating_point() or fake.dtype is torch.uint8
        return not (node.op == "get_attr" and is_weight) and fake.numel() * fake.element_size() <= INLINE

    def _value(self, node: Node) -> torch.Tensor:
        tensor = self.program.state[str(node.target)] if node.op == "get_attr" else evaluate(self.program, node)
        tensor = tensor.detach()
        return tensor.to(narrow(tensor.dtype)) if tensor.dtype is torch.int64 else tensor

    def _rounded(self, node: Node, value: torch.Tensor) -> torch.Tensor:
        """A matrix that only products read, in their precision."""
        products = self.builder.products
        readers = [user for user in node.users if user not in self.constant]
        if products is None or value.dtype is not torch.float32 or not all(_multiplies(u, node) for u in readers):
            return value
        return value.to(products)

    def weight(self, node: Node) -> Any:
        fake = node.meta["val"]
        if not isinstance(fake, torch.Tensor):
            return [self.weight(user) for user in node.users]
        if node in self._parameters:
            return Value(self._parameters[node], fake)
        if node not in self._constants:
            self._constants[node] = Value(self.builder.dense(self._value(node)), fake)
        return self._constants[node]


def _wrapped(result: Any, fake: Any) -> Any:
    if isinstance(result, list):
        return [_wrapped(item, one) for item, one in zip(result, fake, strict=False)]
    return Value(result, fake) if isinstance(result, ir.Value) and isinstance(fake, torch.Tensor) else result


def _identity(tensor: torch.Tensor) -> Any:
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype) if tensor.numel() else id(tensor)


def _multiplies(user: Node, node: Node) -> bool:
    """Whether a call reads a weight as the table of an embedding, or as the matrix of a product."""
    aten = torch.ops.aten
    names = {
        aten.linear.default: "weight", aten.embedding.default: "weight", aten.addmm.default: "mat2",
        aten.mm.default: "mat2", aten.conv1d.default: "weight", aten.conv2d.default: "weight",
    }  # fmt: skip
    return user.target in names and bound(user)[names[user.target]] is node
