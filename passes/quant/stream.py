"""Streaming execution: batches move through the graph segment by segment, and each node runs once per batch.

A segment ends where a value is wanted. Between segments only the values that later segments read are kept; weights are
read when a segment needs them and let go after it. A stream whose weights are all known runs on after a wanted value,
to the point where the least memory is needed until the next one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from graphwright.ir.node import bound, is_call, value_of
from graphwright.ir.program import Program
from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.experts import as_experts, as_matrix, is_grouped

aten = torch.ops.aten
linear = torch.nn.functional.linear
Values = dict[Node, Any]

_UNKNOWN = 64


class Stream:
    """The values of all batches at one point of a program.

    Args:
        program: The program; it stays as it is.
        wanted: Values to stop at, in graph order.
        batches: Flat leaves per batch, as `Program.flatten` returns them.
        device: Where to compute.
        products: Dtype in which linears multiply, None for that of their input.
        kept: Values to keep until a wanted one is reached, though nothing else may read them.
    """

    def __init__(
        self,
        program: Program,
        wanted: Sequence[Node],
        batches: Sequence[Sequence[Any]],
        device: torch.device | str = "cpu",
        products: torch.dtype | None = None,
        kept: Mapping[Node, Node] | None = None,
    ) -> None:
        self.program, self.device, self.products = program, torch.device(device), products
        self.weights: dict[Node, QuantizedLinear] = {}
        self.nodes = _needed([*wanted, *(kept or {})])
        self.constant = _constants(self.nodes)
        self.done = 0
        self.dying = _last_uses(self.nodes, kept or {})
        self.narrow = _multiplied(self.nodes) - {*(kept or {})} if products is not None else set()
        self.stops = [self.nodes.index(node) + 1 for node in wanted]
        self.batches: list[Values] = [self._start(leaves) for leaves in batches]

    def fork(self) -> Stream:
        """A stream at the same point that goes on by itself; values up to here are shared."""
        other = copy.copy(self)
        other.weights, other.batches = dict(self.weights), [dict(values) for values in self.batches]
        return other

    def _start(self, leaves: Sequence[Any]) -> Values:
        needed = set(self.nodes)
        named = zip(self.program.placeholders, leaves, strict=True)
        return {node: self._placed(value) for node, value in named if node in needed}

    def _placed(self, value: Any) -> Any:
        return value.to(self.device) if isinstance(value, Tensor) else value

    def advance(self, node: Node, *, ahead: bool = False) -> Iterator[Values]:
        """Run every batch up to `node` and yield its values; what no later node reads is dropped afterwards.

        Args:
            node: One of the wanted values.
            ahead: Run on to where the least memory is needed; the weights of the next linears must be known.
        """
        stop = self.nodes.index(node) + 1
        rest = self._cheapest(stop) if ahead else stop
        segment, more = self.nodes[self.done : stop], self.nodes[stop:rest]
        self.done = rest
        constants: Values = {}
        for values in self.batches:
            self._run(segment, values, constants, until=node)
            yield values
            self._drop(values, node)
            self._run(more, values, constants)

    def _run(self, nodes: Sequence[Node], values: Values, constants: Values, until: Node | None = None) -> None:
        for node in nodes:
            if node.op == "call_function" and node not in self.constant:
                value = self._call(node, values, constants)
                values[node] = value.to(self.products) if node in self.narrow else value
            if node is not until:
                self._drop(values, node)

    def _cheapest(self, stop: int) -> int:
        """The position from `stop` to the next wanted value after which the fewest bytes are alive."""
        end = next((other - 1 for other in self.stops if other > stop), stop)
        alive, best = 0, (0, stop)
        for position, node in enumerate(self.nodes[stop:end], stop + 1):
            alive += (_bytes(node) if node not in self.constant else 0) - sum(
                map(_bytes, set(self.dying.get(node, ())) - self.constant)
            )
            best = min(best, (alive, position))
        return best[1]

    def _call(self, node: Node, values: Values, constants: Values) -> Any:
        def read(source: Node) -> Any:
            return values[source] if source in values else self._constant(source, constants)

        if is_call(node, aten.linear) and node not in self.constant:
            return self._linear(node, read, constants)
        if is_grouped(node) and node in self.weights:
            return self._grouped(node, read, constants)
        kwargs = dict(map_arg(node.kwargs, read))
        if "device" in kwargs:
            kwargs["device"] = self.device
        return node.target(*map_arg(node.args, read), **kwargs)  # type: ignore[operator]

    def _linear(self, node: Node, read: Callable[[Node], Any], constants: Values) -> Tensor:
        """A linear, multiplied in the stream's dtype, its result in the dtype of its input."""
        inputs = bound(node)
        x, dtype = read(inputs["input"]), self.products or value_of(inputs["weight"]).dtype
        if node not in constants:
            quantized = self.weights.get(node)
            weight = read(inputs["weight"]) if quantized is None else quantized.to(self.device).dequantize()
            constants[node] = weight.to(dtype)
        result = linear(x.to(dtype), constants[node]).to(value_of(node).dtype)
        return result if inputs["bias"] is None else result + read(inputs["bias"])

    def _grouped(self, node: Node, read: Callable[[Node], Any], constants: Values) -> Tensor:
        """A product of quantized experts."""
        arguments: tuple[Any, ...] = node.args
        x, weight, *rest = arguments
        if node not in constants:
            value = value_of(weight)
            experts = as_experts(self.weights[node].to(self.device).dequantize(), value.shape[0])
            constants[node] = experts.to(value.dtype)
        return node.target(read(x), constants[node], *map_arg(rest, read), **map_arg(node.kwargs, read))  # type: ignore

    def _constant(self, node: Node, constants: Values) -> Any:
        """A state tensor or an expression of state alone, kept for the segment."""
        if node not in constants:
            is_state = node.op == "get_attr"
            value = self.program.state[str(node.target)] if is_state else self._call(node, {}, constants)
            constants[node] = self._placed(value.detach() if isinstance(value, Tensor) else value)
        return constants[node]

    def weight(self, node: Node) -> Tensor:
        """The float weight that a linear, or a product of experts, multiplies with, `[outputs, inputs]`."""
        return as_matrix(self._constant(node.args[1] if is_grouped(node) else bound(node)["weight"], {}))  # type: ignore

    def _drop(self, values: Values, node: Node) -> None:
        """Forget what is not read after `node`."""
        for dead in self.dying.get(node, ()):
            values.pop(dead, None)


def _bytes(node: Node) -> int:
    """Size of a value, with the same size for every dimension that is not known."""
    value = value_of(node)
    if not isinstance(value, Tensor):
        return 0
    return math.prod(size if isinstance(size, int) else _UNKNOWN for size in value.shape) * value.element_size()


def _multiplied(nodes: Sequence[Node]) -> set[Node]:
    """Values that only linears read, as their input: the dtype of the products is all that these need."""
    computed, needed = (node for node in nodes if node.op == "call_function"), set(nodes)
    readers = {node: [user for user in node.users if user in needed] for node in computed}
    return {
        node
        for node, users in readers.items()
        if users and all(is_call(user, aten.linear) and bound(user)["input"] is node for user in users)
    }


def _needed(wanted: Sequence[Node]) -> list[Node]:
    """All nodes that the wanted values depend on, in graph order."""
    seen, stack = set[Node](), list(wanted)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(node.all_input_nodes)
    return sorted(seen)


def _constants(nodes: Sequence[Node]) -> set[Node]:
    """Nodes that depend on the state alone."""
    constant: set[Node] = set()
    for node in nodes:
        sources = node.all_input_nodes
        if node.op == "get_attr" or (node.op == "call_function" and sources and all(s in constant for s in sources)):
            constant.add(node)
    return constant


def _last_uses(nodes: Sequence[Node], kept: Mapping[Node, Node]) -> dict[Node, list[Node]]:
    """For each node, the values that are not needed once it has run."""
    last = {node: node for node in nodes}
    for node in nodes:
        for source in node.all_input_nodes:
            last[source] = node
    for node, until in kept.items():
        last[node] = max(last[node], until)
    dying: dict[Node, list[Node]] = {}
    for node, end in last.items():
        dying.setdefault(end, []).append(node)
    return dying
