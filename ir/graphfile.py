"""A graph as JSON: records of its nodes with their provenance, and the state they read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from graphwright.ir.encoding import encode
from graphwright.ir.errors import GraphwrightError
from graphwright.ir.node import frames, source_frame, where
from graphwright.ir.record import node_record
from graphwright.ir.targets import resolve_target
from graphwright.ir.typetext import size_text


class GraphWriter:
    """Turns graphs into JSON and collects the tensors they read.

    Attributes:
        tensors: The tensors of all graphs written so far; those of nested graphs under `<graph>/<tensor>`.
    """

    def __init__(self, dim_names: Mapping[str, str]) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._names = dim_names
        self._stacks: dict[tuple[Any, ...], int] = {}

    @property
    def stacks(self) -> list[Any]:
        """The distinct module stacks, which nodes refer to by number."""
        return list(self._stacks)

    def graph(self, graph: Graph, state: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        """Nodes and state of one graph.

        Raises:
            GraphwrightError: A node calls something, or the state holds something, that a file cannot hold.
        """
        return {
            "state": {name: self._state(name, value, prefix) for name, value in state.items()},
            "nodes": [self._node(node) for node in graph.nodes],
        }

    def _state(self, name: str, value: Any, prefix: str) -> dict[str, Any]:
        if isinstance(value, torch.Tensor):
            self.tensors[prefix + name] = value
            return {"tensor": prefix + name}
        if isinstance(value, GraphModule):
            return {"graph": self.graph(value.graph, _inner_state(value), f"{prefix}{name}/")}
        raise GraphwrightError(f"the state '{name}' is a {type(value).__name__}, which cannot be written")

    def _node(self, node: Node) -> dict[str, Any]:
        record = node_record(node, self._names)
        if node.op == "call_function":
            _check_target(node, record.target)
        fields: dict[str, Any] = {"record": record.to_json()}
        if stack := node.meta.get("nn_module_stack"):
            key = tuple((str(key), str(path), _class_name(cls)) for key, (path, cls) in stack.items())
            fields["stack"] = self._stacks.setdefault(key, len(self._stacks))
        if frame := _frame(node):
            fields["frame"] = frame
        if node.op == "placeholder" and "val" in node.meta:
            fields |= self._input(node.meta["val"])
        return fields

    def _input(self, value: Any) -> dict[str, Any]:
        """What the type of an input does not tell."""
        if not isinstance(value, torch.Tensor):
            return {} if isinstance(value, torch.SymInt) else {"constant": encode(value)}
        if value.is_contiguous():
            return {}
        return {"stride": [size_text(step, self._names) for step in value.stride()]}


def _check_target(node: Node, name: str) -> None:
    try:
        found = resolve_target(name)
    except GraphwrightError as error:
        raise GraphwrightError(error.what, at=where(node), remedies=error.remedies) from None
    if found is not node.target:
        raise GraphwrightError(f"'{name}' is the name of something else than what the node calls", at=where(node))


def _inner_state(module: GraphModule) -> dict[str, Any]:
    """What the `get_attr` nodes of a nested graph read."""
    state: dict[str, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value: Any = module
            for part in str(node.target).split("."):
                value = getattr(value, part)
            state[str(node.target)] = value
    return state


def _class_name(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}" if isinstance(cls, type) else str(cls)


def _frame(node: Node) -> tuple[str, int, str] | None:
    """The source frame, with the file relative to where packages are installed."""
    found = source_frame(node)
    if found is None:
        return None
    function = next(function for file, line, function in frames(node) if (file, line) == found)
    return found[0].replace("\\", "/").rpartition("site-packages/")[2], found[1], function
