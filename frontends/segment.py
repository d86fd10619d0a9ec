"""The nodes that one call of a layer adds to a graph while it is traced, and copies of them for other layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

_NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool)


@dataclass(frozen=True)
class Segment:
    """What a call added.

    Args:
        tracer: The tracer that was at work.
        inputs: The nodes of the call's tensors: arguments, the layer's part of caches, weights.
        nodes: What was added, in order.
        outputs: The nodes of the tensors that the call returned or stored.
    """

    tracer: Any
    inputs: tuple[Node, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Node, ...]

    def is_closed(self) -> bool:
        """Whether it can be copied: it reads nothing but its inputs, sizes and constants."""
        known = {*self.inputs, *self.nodes}
        calls = [node for node in self.nodes if not is_size(node)]  # whose tensor a size is read from does not matter
        read = {*self.outputs, *(source for node in calls for source in node.all_input_nodes)}
        return all(map(self._is_copyable, self.nodes)) and all(node in known or is_size(node) for node in read)

    def _is_copyable(self, node: Node) -> bool:
        if node.op == "get_attr":
            return isinstance(self.constant(node), torch.Tensor)
        return node.op == "call_function" and "unbacked_bindings" not in node.meta

    def constant(self, node: Node) -> Any:
        """What a `get_attr` node reads."""
        return getattr(self.tracer.root, str(node.target), None)

    def is_like(self, other: Segment) -> bool:
        """Whether both compute the same of their inputs, node by node."""
        twins: dict[Node, Node] = {}
        pairs = [*zip(self.inputs, other.inputs, strict=True)]
        if any(twins.setdefault(mine, its) is not its for mine, its in pairs):
            return False
        mine, its = ([node for node in nodes if not is_size(node)] for nodes in (self.nodes, other.nodes))
        if len(mine) != len(its) or len(self.outputs) != len(other.outputs):
            return False
        for node, twin in zip(mine, its, strict=True):
            if not (_same_call(node, twin, twins) and self._same_constant(node, other, twin)):
                return False
            twins[node] = twin
        return all(_same(node, twin, twins) for node, twin in zip(self.outputs, other.outputs, strict=True))

    def _same_constant(self, node: Node, other: Segment, twin: Node) -> bool:
        if node.op != "get_attr":
            return True
        a, b = self.constant(node), other.constant(twin)
        return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)

    def copy(self, inputs: Sequence[Node], adapt: Callable[[Node], None]) -> list[Node]:
        """Add the nodes once more at the end of the graph.

        Args:
            inputs: To read instead of the own ones.
            adapt: Called with each new node, which has the metadata of the original.

        Returns:
            The new outputs.
        """
        twins = dict(zip(self.inputs, inputs, strict=True))
        for node in self.nodes:
            twins[node] = self.tracer.graph.node_copy(node, lambda source: twins.get(source, source))
            twins[node].meta["nn_module_stack"] = dict(node.meta["nn_module_stack"])
            if node.op == "get_attr":
                twins[node].target = self._constant_again(node)
            adapt(twins[node])
        return [twins.get(node, node) for node in self.outputs]

    def _constant_again(self, node: Node) -> str:
        """The name of a copy of a constant."""
        name = self.tracer.get_fresh_qualname(str(node.target).rstrip("0123456789"))
        with unset_fake_temporarily(), disable_proxy_modes_tracing():
            setattr(self.tracer.root, name, self.constant(node).clone())
        return name


def is_size(node: Node) -> bool:
    """Whether a node is a symbolic number."""
    return isinstance(node.meta.get("val"), _NUMBERS)


def last_node(graph: Graph) -> Node:
    """The node that was added last."""
    return next(iter(reversed(graph.nodes)))


def added_since(graph: Graph, last: Node) -> tuple[Node, ...]:
    """The nodes that were added after `last`."""
    added = []
    for node in reversed(graph.nodes):
        if node is last:
            break
        added.append(node)
    return tuple(reversed(added))


def _same_call(a: Node, b: Node, twins: dict[Node, Node]) -> bool:
    if a.op != b.op or (a.target != b.target and a.op != "get_attr"):
        return False
    return _same((a.args, a.kwargs), (b.args, b.kwargs), twins)


def _same(a: Any, b: Any, twins: dict[Node, Node]) -> bool:
    """Whether two arguments are the same: twins, sizes that are equal expressions, or equal values."""
    if isinstance(a, Node) and isinstance(b, Node):
        if is_size(a) and is_size(b):
            return a.meta["val"].node.expr == b.meta["val"].node.expr
        return twins.get(a) is b
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(_same(x, y, twins) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key], twins) for key in a)
    return type(a) is type(b) and bool(a == b)
