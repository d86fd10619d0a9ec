"""A program of fixed sizes as one flat graph: tensors in, tensors out, weights by identifiers."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate

from graphwright.ir.program import Program
from graphwright.lowering.interface import Interface


def identifiers(names: Iterable[str]) -> dict[str, str]:
    """A distinct Python identifier for each name, as like it as can be."""
    found: dict[str, str] = {}
    taken = set(dir(torch.nn.Module)) | set(keyword.kwlist)
    for name in names:
        stem = re.sub(r"\W", "_", name)
        stem = f"_{stem}" if not stem or stem[0].isdigit() else stem
        choices = (stem if i == 0 else f"{stem}_{i}" for i in range(len(taken) + 2))
        found[name] = next(choice for choice in choices if choice not in taken)
        taken.add(found[name])
    return found


def flat_graph(program: Program, interface: Interface) -> Graph:
    """The graph with a placeholder for each input of the interface and a tuple of its outputs.

    Weights are read under their identifiers. Nodes keep their `meta`.
    """
    graph, values = Graph(), dict[Node, Any]()
    leaves, placeholders = program.example.leaves(), program.placeholders
    tensors = {port.leaf: port.name for port in interface.inputs}
    for i, (node, leaf) in enumerate(zip(placeholders, leaves, strict=True)):
        values[node] = leaf
        if i in tensors:
            values[node] = graph.placeholder(re.sub(r"\W", "_", tensors[i]))
            values[node].meta = dict(node.meta)
    names = identifiers(program.state)
    for node in program.graph.nodes:
        if node.op in ("get_attr", "call_function"):
            copy = graph.node_copy(node, values.__getitem__)
            copy.target = names[str(node.target)] if node.op == "get_attr" else node.target
            values[node] = copy
    results = program.results
    graph.output(tuple(values.get(results[port.leaf], results[port.leaf]) for port in interface.outputs))
    return graph


def flat_module(program: Program, interface: Interface, device: str = "cpu") -> GraphModule:
    """The flat graph with its weights, on a device."""
    graph, names = flat_graph(program, interface), identifiers(program.state)
    holder = torch.nn.Module()
    for name, value in program.tensors().items():
        holder.register_buffer(names[name], value.detach())
    if device != "cpu":
        holder.to(device)
        move_constants(graph, torch.device(device))
    return GraphModule(holder, graph, class_name=program.name)


def move_constants(graph: Graph, device: torch.device) -> None:
    """Let tensors that the graph makes be on a device."""
    swap = lambda value: device if isinstance(value, torch.device) else value  # noqa: E731
    for node in graph.nodes:
        node.args, node.kwargs = map_aggregate(node.args, swap), map_aggregate(node.kwargs, swap)
