"""Which softmaxes are attention: their scores come from a product of activations, their result goes into another.

The softmax of a router or gate gets its scores from a linear layer, one over classes goes to the outputs: neither has
a product of activations on both sides. Nothing here knows how attention is spelt between the two products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch.fx import Graph, GraphModule, Node

from graphwright.ir.node import is_call, module_path, shape_of, source_line
from graphwright.ir.program import Program

aten = torch.ops.aten
_SOFTMAX = (aten.softmax, aten._softmax, aten._safe_softmax)
_PRODUCTS = (aten.matmul, aten.bmm, aten.baddbmm, aten.einsum)
_FUSED = ("aten.scaled_dot_product_attention", "graphwright.attention")
_BARRIERS = (
    aten.linear,
    aten.addmm,
    aten.mm,
    aten.layer_norm,
    aten.rms_norm,
    aten.embedding,
    aten.topk,
    aten.sort,
    aten.argmax,
    aten.conv1d,
    aten.conv2d,
    aten.conv3d,
    aten.convolution,
    aten.log,
    aten.sum,
    aten.mean,
    aten.scaled_dot_product_attention,
    *_SOFTMAX,
)


def graphs(program: Program) -> Iterator[Graph]:
    """The program's graph, and those of its branches and loops."""
    yield program.graph
    for name in {str(node.target) for node in program.graph.nodes if node.op == "get_attr"}:
        value = program.state[name]
        if isinstance(value, GraphModule):
            yield from (module.graph for module in value.modules() if isinstance(module, GraphModule))


def attention_softmaxes(program: Program) -> list[Node]:
    """The softmaxes of `program` that are attention."""
    return [node for graph in graphs(program) for node in graph.nodes if is_attention(node)]


def all_softmaxes(program: Program) -> list[Node]:
    """Every softmax of `program`."""
    return [node for graph in graphs(program) for node in graph.nodes if is_call(node, *_SOFTMAX)]


def fused_attentions(program: Program) -> dict[str, int]:
    """How many fused ops of each kind there are."""
    names = [str(node.target) for graph in graphs(program) for node in graph.nodes if node.op == "call_function"]
    return {op: sum(name.startswith(op) for name in names) for op in _FUSED}


def is_attention(node: Node) -> bool:
    """Whether a node is a softmax between two products of activations."""
    return is_call(node, *_SOFTMAX) and _reaches_scores(node) and _reaches_values(node)


def _reaches_scores(softmax: Node) -> bool:
    def found(node: Node) -> bool:
        return _is_product(node) and not any(_is_weight(operand) for operand in _operands(node))

    return _search(softmax.all_input_nodes[:1], found, lambda node: node.all_input_nodes)


def _reaches_values(softmax: Node) -> bool:
    """Whether the result becomes an operand of a product whose other operand is an activation."""
    seen = {softmax}
    queue = [softmax]
    while queue:
        current = queue.pop()
        for user in current.users:
            if _is_product(user):
                others = [operand for operand in _operands(user) if operand is not current]
                if others and not any(_is_weight(operand) for operand in others):
                    return True
            elif user not in seen and not is_call(user, *_BARRIERS) and shape_of(user) is not None:
                seen.add(user)
                queue.append(user)
    return False


def _search(start: Iterable[Node], found: Callable[[Node], bool], step: Callable[[Node], Iterable[Node]]) -> bool:
    seen = set(start)
    queue = list(seen)
    while queue:
        node = queue.pop()
        if found(node):
            return True
        if _is_product(node) or is_call(node, *_BARRIERS):
            continue
        fresh = [other for other in step(node) if other not in seen]
        seen.update(fresh)
        queue += fresh
    return False


def _is_product(node: Node) -> bool:
    return is_call(node, *_PRODUCTS)


def _operands(node: Node) -> list[Node]:
    operands = node.all_input_nodes
    return operands[1:] if is_call(node, aten.baddbmm) and len(operands) == 3 else operands


def _is_weight(node: Node) -> bool:
    """Whether a value is a weight in another layout."""
    while len(node.all_input_nodes) == 1 and not is_call(node, *_PRODUCTS, *_BARRIERS):
        node = node.all_input_nodes[0]
    return node.op == "get_attr"


def site(node: Node) -> str:
    """Where a node stands in the model: module path and source line."""
    return " ".join(part for part in (module_path(node), source_line(node)) if part)
