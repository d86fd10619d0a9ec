"""Packed linears as plain ones: the compiler has no op for codes of a few bits, so their weights are written out."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.infer import fake_mode_of, fake_of, infer
from graphwright.ir.node import bound, is_call, tensor_type
from graphwright.ir.packed import PackedWeight
from graphwright.ir.program import Program
from graphwright.lowering.fold import evaluate

aten = torch.ops.aten


def dequantize_weights(program: Program) -> int:
    """Replace, in place, each packed linear by a linear on the weight that its codes stand for.

    Returns:
        Number of linears replaced.
    """
    found = [node for node in program.graph.nodes if is_call(node, torch.ops.graphwright.packed_linear)]
    for node in found:
        _replace(program, node)
    if found:
        program.graph.eliminate_dead_code()
        program.touch()
    return len(found)


def _replace(program: Program, node: Node) -> None:
    arguments = bound(node)
    kind = tensor_type(arguments["input"])
    assert kind is not None
    weight = _packed(program, arguments, int(kind.shape[-1])).dequantize().to(kind.dtype)
    mode = fake_mode_of(program.graph)
    name = f"dequantized.{node.name}"
    program.state[name] = weight
    with program.graph.inserting_before(node):
        attribute = program.graph.create_node("get_attr", name)
        attribute.meta["val"] = fake_of(mode, weight)
        linear = program.graph.call_function(aten.linear.default, (arguments["input"], attribute, arguments["bias"]))
    linear.meta = {**node.meta, "val": infer(mode, linear.target, linear.args, {})}
    node.replace_all_uses_with(linear)
    program.graph.erase_node(node)


def _packed(program: Program, arguments: dict[str, Any], inputs: int) -> PackedWeight:
    tensors: dict[str, Any] = {
        name: None if arguments[name] is None else evaluate(program, arguments[name])
        for name in ("weight", "scales", "zeros", "group_index")
    }
    return PackedWeight(**tensors, bits=arguments["bits"], group_size=arguments["group_size"], inputs=inputs)
