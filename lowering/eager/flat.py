"""A program as one flat Python function of tensors: inputs first, then weights, then folded values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from graphwright.ir.program import Program
from graphwright.ir.rewriter import is_needed
from graphwright.lowering.eager.bindings import binding


class FlatFunction:
    """A compiled graph whose weights are arguments, so that a call looks up no module attribute.

    Args:
        module: Holder of the generated code; its `forward` takes the inputs, then the weights.
        weights: What the weight arguments are, in order.
    """

    def __init__(self, module: GraphModule, weights: Sequence[torch.Tensor]) -> None:
        self.module, self.weights = module, tuple(weights)
        self._forward = module.forward

    def __call__(self, inputs: Sequence[torch.Tensor], folded: Sequence[torch.Tensor] = ()) -> tuple[Any, ...]:
        """Run on the tensor inputs and the values of the folded nodes; returns the flat results."""
        return self._forward(*inputs, *self.weights, *folded)


def flat_function(program: Program, folded: Sequence[Node] = (), results: Sequence[Any] | None = None) -> FlatFunction:
    """The flat function of a program.

    Args:
        program: The program; inputs that are not tensors become the constants they were captured with.
        folded: Nodes whose values are passed as arguments instead of being computed.
        results: Nodes to return instead of the program's results; then effects that they do not need are left out.
    """
    wanted = program.results if results is None else results
    needed = [value for value in wanted if isinstance(value, Node)]
    effects = [node for node in program.graph.nodes if node.op == "call_function" and is_needed(node)]
    live = ancestors([*needed, *(effects if results is None else ())], stop=set(folded))
    builder = _Builder(program, folded, live)
    for node, leaf in zip(program.placeholders, program.example.leaves(), strict=True):
        builder.values[node] = builder.argument(node) if isinstance(leaf, torch.Tensor) else leaf
    return builder.build(wanted)


def weight_function(program: Program, nodes: Sequence[Node]) -> FlatFunction:
    """The flat function that computes `nodes`, which depend on weights only."""
    return _Builder(program, (), live=ancestors(nodes)).build(nodes)


def ancestors(nodes: Iterable[Node], stop: set[Node] | frozenset[Node] = frozenset()) -> set[Node]:
    """`nodes` and all that they are computed from; the search ends at the nodes in `stop`."""
    found: set[Node] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(() if node in stop else node.all_input_nodes)
    return found


class _Builder:
    """Builds a flat graph from the live nodes of a program, in program order."""

    def __init__(self, program: Program, folded: Sequence[Node], live: set[Node]) -> None:
        self.program, self.folded, self.live = program, folded, live
        self.graph = Graph()
        self.values: dict[Node, Any] = {}

    def argument(self, node: Node) -> Node:
        """A new argument of the flat function."""
        return self.graph.placeholder(node.name)

    def build(self, results: Sequence[Any]) -> FlatFunction:
        """Add weights, folded values, calls and the output."""
        weights = [node for node in self.program.graph.nodes if node in self.live and self._is_weight(node)]
        self.values |= {node: self.argument(node) for node in weights}
        self.values |= {node: self.argument(node) for node in self.folded}
        for node in self.program.graph.nodes:
            if node in self.live and node not in self.values and node.op != "output":
                self.values[node] = self._copy(node, self.values.__getitem__)
        self.graph.output(tuple(self.values[value] if isinstance(value, Node) else value for value in results))
        module = GraphModule(self._holder(), self.graph, class_name=self.program.name)
        return FlatFunction(module, [self.program.state[str(node.target)] for node in weights])

    def _is_weight(self, node: Node) -> bool:
        return node.op == "get_attr" and isinstance(self.program.state[str(node.target)], torch.Tensor)

    def _copy(self, node: Node, load: Callable[[Node], Any]) -> Node:
        copy = self.graph.node_copy(node, load)
        if node.op == "call_function":
            copy.target = binding(node) or node.target
        elif node.op == "get_attr":
            copy.target = _flat_name(str(node.target))
        return copy

    def _holder(self) -> torch.nn.Module:
        """A module with the graph modules that higher-order ops call."""
        holder = torch.nn.Module()
        for name, value in self.program.state.items():
            if isinstance(value, torch.nn.Module):
                holder.add_module(_flat_name(name), value)
        return holder


def _flat_name(name: str) -> str:
    return name.replace(".", "_")
