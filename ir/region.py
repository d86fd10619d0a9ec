"""A part of a program as a program of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from graphwright.ir.errors import GraphwrightError
from graphwright.ir.program import Program, State
from graphwright.ir.signature import Example, Signature


def inputs_of(nodes: Iterable[Node]) -> list[Node]:
    """Values from outside that a set of nodes reads, weights not counted, in graph order."""
    inside = set(nodes)
    sources = {source for node in inside for source in node.all_input_nodes}
    return sorted(source for source in sources - inside if source.op != "get_attr")


def extract(program: Program, results: Sequence[Node], inputs: Sequence[Node], example: Sequence[Any]) -> Program:
    """The part of `program` that computes `results` from `inputs`.

    Args:
        program: The program; it stays as it is.
        results: Values the part returns, in this order.
        inputs: Values that become its inputs; everything between them and the results is copied.
        example: One value per input, kept as the example of the new program.

    Raises:
        GraphwrightError: A result depends on a program input that is not among `inputs`.
    """
    graph, values, state = Graph(), {}, dict[str, Any]()
    for node in inputs:
        values[node] = graph.placeholder(node.name)
        values[node].meta = dict(node.meta)
    for node in _between(results, inputs):
        if node.op == "placeholder":
            raise GraphwrightError(f"the part depends on the input '{node.target}' too")
        values[node] = graph.node_copy(node, values.__getitem__)
        if node.op == "get_attr":
            state[str(node.target)] = program.state[str(node.target)]
    graph.output(tuple(values[node] for node in results))
    return _as_program(program, graph, state, [node.name for node in inputs], example, len(results))


def _between(results: Sequence[Node], inputs: Sequence[Node]) -> list[Node]:
    """Nodes that the results need, inputs excluded, in graph order."""
    stop, seen, stack = set(inputs), set[Node](), [node for node in results if node not in set(inputs)]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(source for source in node.all_input_nodes if source not in stop)
    return sorted(seen)


def _as_program(
    program: Program, graph: Graph, state: State, names: Sequence[str], example: Sequence[Any], results: int
) -> Program:
    """Wrap a graph of positional inputs; results come as a tuple."""
    in_spec = pytree.tree_structure((tuple(range(len(names))), {}))
    out_spec = pytree.tree_structure(tuple(range(results)))
    graph._codegen = torch.fx.graph._PyTreeCodeGen(
        torch.fx.graph._PyTreeInfo(orig_args=list(names), in_spec=in_spec, out_spec=out_spec)
    )
    return Program(
        graph=graph,
        state=state,
        signature=Signature(tuple(names), in_spec, out_spec),
        example=Example(tuple(example)),
        dims=program.dims,
        invariants=program.invariants,
        name=f"{program.name}_region",
        training=program.training,
    )
