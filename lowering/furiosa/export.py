"""Programs as ExportedPrograms that another torch can load: tensors in, a tuple of tensors out, no classes."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from graphwright.ir.program import Program, module_tree
from graphwright.lowering.interface import Interface


def exported(program: Program) -> ExportedProgram:
    """Export a static program on its tensor inputs, in the order and under the names of its interface.

    Dots in names become `_`. No example inputs are kept: torch would pickle them into the file.
    """
    interface = Interface.of(program)
    leaves = program.example.leaves()
    state = {name: _dense(value) for name, value in program.state.items()}
    module = GraphModule(module_tree(state, program.graph), _flat(program, interface))
    made = torch.export.export(module.eval(), tuple(leaves[port.leaf] for port in interface.inputs), strict=False)
    made._example_inputs = None
    return made


def _dense(value: Any) -> Any:
    """A tensor that lies in memory as its sizes say; torch warns of others when it writes them."""
    whole = not isinstance(value, torch.Tensor) or value.is_contiguous()
    return value if whole else value.detach().contiguous()


def _flat(program: Program, interface: Interface) -> Graph:
    """The graph with tensors as its only inputs and results."""
    graph = Graph()
    names = {program.placeholders[port.leaf]: re.sub(r"\W", "_", port.name) for port in interface.inputs}
    values: dict[Node, Node] = {node: graph.placeholder(name) for node, name in names.items()}
    for node in program.graph.nodes:
        if node.op in ("get_attr", "call_function"):
            values[node] = graph.node_copy(node, values.__getitem__)
    graph.output(tuple(values[program.results[port.leaf]] for port in interface.outputs))
    return graph
