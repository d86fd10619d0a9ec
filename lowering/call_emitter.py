"""CallEmitter: the walk over a program's calls that targets with a graph of their own share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch.fx import Node

from graphwright.ir.errors import UnsupportedError
from graphwright.ir.node import bound, where
from graphwright.ir.program import Program
from graphwright.lowering.emitters import EmitterTable
from graphwright.lowering.fold import constant_nodes, evaluate

FAILURES = (KeyError, TypeError, IndexError, ValueError, RuntimeError, AttributeError)


class CallEmitter(ABC):
    """State of one emission: emits every call of a program through the emitter that a table has for it.

    Args:
        program: A legalised program, whose calls all have emitters.
        builder: What emitters append operators to; its attribute `node` is the call that is being emitted.
        table: The target's emitters.
    """

    label: ClassVar[str]
    """What the target is called in errors."""

    def __init__(self, program: Program, builder: Any, table: EmitterTable) -> None:
        self.program, self.builder, self.table = program, builder, table
        self.values: dict[Node, Any] = {}

    @abstractmethod
    def is_weight(self, node: Node) -> bool:
        """Whether a node is known before the model runs, so that no operator is emitted for it."""

    @abstractmethod
    def weight(self, node: Node) -> Any:
        """The value that stands for such a node; a list where the node has several results."""

    @abstractmethod
    def finish(self, node: Node, result: Any) -> Any:
        """Name and type what an emitter returned; the value that readers of the node are given."""

    def emit_calls(self) -> None:
        """Emit all calls, in order."""
        for node in self.program.graph.nodes:
            if node.op == "call_function" and not self.is_weight(node):
                self._call(node)
        self.builder.node = None

    def _call(self, node: Node) -> None:
        if node.target not in self.table.emitters:
            return  # arithmetic on sizes: emitted where a size is used
        emitter, answer = self.table.find(node)
        if emitter is None:
            raise UnsupportedError(f"no {self.label} form for {node.target}", at=where(node), why=answer.reason)
        self.builder.node = node
        arguments = {name: self.value(argument) for name, argument in bound(node).items()}
        try:
            result = emitter.emit(self.builder, **arguments)
        except FAILURES as error:
            raise UnsupportedError(
                f"the {self.label} emitter of {node.target} failed", at=where(node), why=repr(error)[:600]
            ) from error
        self.values[node] = self.finish(node, result)

    def value(self, argument: Any) -> Any:
        """An argument as emitters take it: nodes become values, sizes or lists of values."""
        if isinstance(argument, (list, tuple)):
            return [self.value(item) for item in argument]
        if isinstance(argument, Mapping):
            return {name: self.value(item) for name, item in argument.items()}
        if not isinstance(argument, Node):
            return argument
        if self.values.get(argument) is not None:
            return self.values[argument]
        if self.is_weight(argument):
            return self.weight(argument)
        return argument.meta.get("val")


class StateEmitter(CallEmitter):
    """A `CallEmitter` whose weights are state tensors, and what is computed from them alone, each stored once.

    Args:
        program: See `CallEmitter`.
        builder: See `CallEmitter`.
        table: See `CallEmitter`.
    """

    def __init__(self, program: Program, builder: Any, table: EmitterTable) -> None:
        super().__init__(program, builder, table)
        self.constant = constant_nodes(program)
        self._weights: dict[Any, Any] = {}

    @abstractmethod
    def stored(self, node: Node, tensor: torch.Tensor, name: str) -> Any:
        """The value of a weight that is met for the first time."""

    def is_weight(self, node: Node) -> bool:
        """Whether a node is of the state, or computed from it alone."""
        return node.op == "get_attr" or node in self.constant

    def weight(self, node: Node) -> Any:
        """The value that stands for a weight; equal ones of the state are one."""
        if not isinstance(node.meta["val"], torch.Tensor):
            return [self.weight(user) for user in node.users]
        key = self._key(node)
        if key not in self._weights:
            tensor = self.program.state[str(node.target)] if node.op == "get_attr" else evaluate(self.program, node)
            name = str(node.target) if node.op == "get_attr" else f"folded.{node.name}"
            self._weights[key] = self.stored(node, tensor, name)
        return self._weights[key]

    def _key(self, node: Node) -> Any:
        if node.op != "get_attr":
            return node
        tensor = self.program.state[str(node.target)]
        if not isinstance(tensor, torch.Tensor) or not tensor.numel():
            return str(node.target)
        return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
