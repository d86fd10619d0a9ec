"""Linears of sizes that are powers of two: the compiler takes far longer for others, such as a width of 96."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node
from torch.nn.functional import pad

from graphwright.ir.infer import fake_mode_of, fake_of, infer
from graphwright.ir.node import bound, is_call, shape_of
from graphwright.ir.program import Program

aten = torch.ops.aten

# Ops of one input that keep its shape: what is cut off after them may as well be cut off before.
_POINTWISE = (aten.relu, aten.gelu, aten.silu, aten.tanh, aten.sigmoid)


def pad_linears(program: Program) -> int:
    """Widen, in place, weights that are not powers of two with zeros; their inputs are padded, and results cut.

    What is cut off and padded again on the way to the next linear, through an activation, is left as it is: the
    zeros of that linear's weight make it vanish.

    Returns:
        Number of linears changed.
    """
    worker = _Padding(program)
    count = sum(worker.visit(node) for node in list(program.graph.nodes) if node.op == "call_function")
    if count:
        program.graph.eliminate_dead_code()
        program.touch()
    return count


class _Padding:
    """State of one run: the wide value behind each value that was cut."""

    def __init__(self, program: Program) -> None:
        self.program, self.graph = program, program.graph
        self.mode = fake_mode_of(program.graph)
        self.wide: dict[Node, Node] = {}

    def visit(self, node: Node) -> bool:
        """Pad a linear, or move a cut behind an activation; whether it was a linear."""
        source = node.args[0] if node.args else None
        if is_call(node, *_POINTWISE) and isinstance(source, Node) and source in self.wide:
            self._cut(node, self._call(node, node.target, self.wide[source], *node.args[1:], **node.kwargs))
        if not is_call(node, aten.linear):
            return False
        arguments = bound(node)
        weight = arguments["weight"]
        if weight.op != "get_attr" or not self._is_known(arguments["bias"]):
            return False
        outputs, inputs = self.program.state[weight.target].shape
        missing = (_power(outputs) - outputs, _power(inputs) - inputs)
        if missing != (0, 0):
            self._pad(node, arguments, *missing)
        return missing != (0, 0)

    def _is_known(self, bias: Node | None) -> bool:
        return bias is None or bias.op == "get_attr"

    def _pad(self, node: Node, arguments: dict[str, Any], outputs: int, inputs: int) -> None:
        source = self.wide.get(arguments["input"]) if inputs else arguments["input"]
        source = source or self._call(node, aten.constant_pad_nd.default, arguments["input"], [0, inputs], 0.0)
        weight = self._widened(node, arguments["weight"], [0, inputs, 0, outputs])
        bias = arguments["bias"] and self._widened(node, arguments["bias"], [0, outputs])
        linear = self._call(node, aten.linear.default, source, weight, bias)
        if outputs:
            self._cut(node, linear)
        else:
            node.replace_all_uses_with(linear)

    def _cut(self, node: Node, wide: Node) -> None:
        """Let the readers of `node` read the beginning of the last axis of `wide`."""
        shape = shape_of(node) or ()
        cut = self._call(node, aten.slice.Tensor, wide, len(shape) - 1, 0, shape[-1])
        node.replace_all_uses_with(cut)
        self.wide[cut] = wide

    def _widened(self, node: Node, weight: Node, amounts: list[int]) -> Node:
        name = f"padded.{node.name}.{weight.name}"
        self.program.state[name] = pad(self.program.state[str(weight.target)].detach(), amounts)
        with self.graph.inserting_before(node):
            attribute = self.graph.create_node("get_attr", name)
        attribute.meta["val"] = fake_of(self.mode, self.program.state[name])
        return attribute

    def _call(self, node: Node, target: Any, *args: Any, **kwargs: Any) -> Node:
        with self.graph.inserting_before(node):
            call = self.graph.call_function(target, args, kwargs)
        call.meta = {**node.meta, "val": infer(self.mode, target, call.args, call.kwargs)}
        return call


def _power(size: int) -> int:
    """The smallest power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()
