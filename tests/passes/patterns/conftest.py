from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.fx import Graph, Node

from graphwright.ir.program import Program
from graphwright.ir.signature import Example
from graphwright.passes.patterns import Matcher, Rule

aten = torch.ops.aten


class GraphMaker:
    """Builds fx graphs whose nodes carry values on the meta device."""

    def __init__(self) -> None:
        self.graph = Graph()

    def input(self, name: str = "x", shape: tuple[int, ...] = (2, 3, 4, 5), dtype: torch.dtype = torch.float32) -> Node:
        node = self.graph.placeholder(name)
        node.meta["val"] = torch.empty(shape, dtype=dtype, device="meta")
        return node

    def weight(self, name: str, tensor: torch.Tensor) -> Node:
        node = self.graph.create_node("get_attr", name)
        node.meta["val"] = tensor.to("meta")
        return node

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        node = self.graph.call_function(target, args, kwargs)
        value = lambda x: x.meta["val"] if isinstance(x, Node) else x  # noqa: E731
        node.meta["val"] = target(
            *torch.fx.node.map_aggregate(args, value), **torch.fx.node.map_aggregate(kwargs, value)
        )
        return node

    def output(self, *nodes: Node) -> Graph:
        self.graph.output(tuple(nodes))
        self.graph.lint()
        return self.graph


@pytest.fixture
def g() -> GraphMaker:
    return GraphMaker()


@pytest.fixture(scope="session")
def make_graph():
    return GraphMaker


@pytest.fixture
def match():
    """match(pattern function, node): a one-off rule, matched at a node."""

    def run(pattern: Any, node: Node, state: dict[str, torch.Tensor] | None = None, **attributes: Any) -> Any:
        rule = type("OneOff", (Rule,), {"pattern": staticless(pattern), **attributes})
        return Matcher(rule, state).match(node)

    return run


def staticless(pattern: Any) -> Any:
    """A pattern function without `self` as a method."""
    import inspect

    def method(self, *captures):
        return pattern(*captures)

    names = ["self", *inspect.signature(pattern).parameters]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    method.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])  # type: ignore[attr-defined]
    return method


@pytest.fixture
def one_off():
    """one_off(pattern function, **attributes): a rule class."""
    return lambda pattern, **attributes: type("OneOff", (Rule,), {"pattern": staticless(pattern), **attributes})


@pytest.fixture
def program_of():
    def capture(module: torch.nn.Module, *args: torch.Tensor, invariants: tuple[str, ...] = ("functional",)) -> Program:
        exported = torch.export.export(module, args)
        program = Program.from_exported(exported, example=Example(args, {}))
        for node in program.graph.find_nodes(op="call_function", target=aten._assert_tensor_metadata.default):
            program.graph.erase_node(node)
        program.invariants = frozenset(invariants)
        return program

    return capture
