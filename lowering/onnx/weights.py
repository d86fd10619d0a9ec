"""Weights as ONNX initializers: read from the model's own tensors when the file is written, each stored once."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor, from_torch_dtype
from torch.fx import Node

from graphwright.ir.node import argument, is_call
from graphwright.ir.program import Program
from graphwright.lowering.fold import constant_nodes, evaluate
from graphwright.lowering.onnx.builder import Builder

aten = torch.ops.aten
Key = tuple[Any, ...]


class Weights:
    """The constant nodes of a program, made initializers when they are first asked for.

    A weight that only `linear` calls read, as their weight, is stored transposed; tied weights are stored once.
    """

    def __init__(self, program: Program, builder: Builder) -> None:
        self.program, self.builder = program, builder
        self.constant = constant_nodes(program)
        self._made: dict[Key, ir.Value] = {}
        self._keys: dict[ir.Value, Key] = {}
        self._sources: dict[Key, Node] = {}
        self._transposable = self._find_transposable()

    def __contains__(self, node: Node) -> bool:
        return node.op == "get_attr" or node in self.constant

    def value(self, node: Node) -> ir.Value:
        """The initializer of a constant node."""
        key = self._key(node)
        if key not in self._made:
            value = self.builder.initializer(self._data(node), node.meta["val"])
            self._made[key], self._keys[value], self._sources[key] = value, key, node
        return self._made[key]

    def transposed(self, value: ir.Value) -> ir.Value | None:
        """The transposed initializer of a matrix, None where it is not one, or is read in other ways too."""
        key = self._keys.get(value)
        if key is None or key not in self._transposable:
            return None
        other = (*key, "transposed")
        if other not in self._made:
            source = self._sources[key]
            data = self._data(source, transpose=True)
            self._made[other] = self.builder.initializer(data, source.meta["val"].t())
        return self._made[other]

    def _find_transposable(self) -> set[Key]:
        usable: dict[Key, bool] = {}
        for node in self.program.graph.nodes:
            if node in self and isinstance(node.meta.get("val"), torch.Tensor):
                readers = [user for user in node.users if user not in self.constant]
                ok = all(_reads_as_weight(user, node) for user in readers)
                usable[self._key(node)] = usable.get(self._key(node), True) and ok
        return {key for key, ok in usable.items() if ok}

    def _key(self, node: Node) -> Key:
        if node.op != "get_attr":
            return ("folded", node.name)
        tensor = self.program.state[str(node.target)]
        place = (tensor.data_ptr(), tensor.device) if tensor.numel() else (str(node.target),)
        return (*place, tuple(tensor.shape), tensor.stride(), tensor.dtype)

    def _data(self, node: Node, transpose: bool = False) -> Any:
        suffix = ".T" if transpose else ""
        if node.op == "get_attr":
            tensor = self.program.state[str(node.target)].detach()
            return TorchTensor(tensor.t() if transpose else tensor, name=f"{node.target}{suffix}")
        fake: torch.Tensor = node.meta["val"]
        shape = [int(size) for size in fake.shape]
        name = f"folded.{node.name}{suffix}"

        def read() -> TorchTensor:
            tensor = evaluate(self.program, node)
            return TorchTensor(tensor.t() if transpose else tensor, name=name)

        shape = shape[::-1] if transpose else shape
        return ir.LazyTensor(read, dtype=from_torch_dtype(fake.dtype), shape=ir.Shape(shape), name=name)


def _reads_as_weight(user: Node, node: Node) -> bool:
    if not is_call(user, aten.linear):
        return False
    return argument(user, "weight") is node and argument(user, "input") is not node
