"""Which packed linears of a program run in kernels of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.ir.node import bound, is_call, value_of
from graphwright.ir.program import Program
from graphwright.lowering.eager.packed.cpu import PackedCall, PackedMode
from graphwright.lowering.eager.packed.cuda import CudaPackedCall

packed_linear = torch.ops.graphwright.packed_linear.default
_HALF = (torch.float16, torch.bfloat16)


def place_packed(program: Program, mode: PackedMode) -> Program:
    """A copy of `program` whose packed linears choose among kernels; itself where it has none.

    Args:
        program: The program; it stays as it is.
        mode: What the kernels may do; see `PackedCall`.
    """
    if not any(is_call(node, packed_linear) for node in program.graph.nodes):
        return program
    copy = program.clone()
    for node in [node for node in copy.graph.nodes if is_call(node, packed_linear)]:
        _place(node, mode)
    return copy


def _place(node: Node, mode: PackedMode) -> None:
    *operands, bits, group_size = bound(node).values()
    target = _kernel(value_of(node), bits, group_size, mode)
    if target is None:
        return
    with node.graph.inserting_before(node):
        call = node.graph.call_function(target, tuple(operands))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    node.graph.erase_node(node)


def _kernel(value: torch.Tensor, bits: int, group_size: int, mode: PackedMode) -> Any:
    """What runs for a result on its device; None for the reference."""
    if value.device.type == "cpu" and value.dtype in (torch.float32, torch.bfloat16):
        return PackedCall(bits, group_size, mode)
    if value.device.type == "cuda" and value.dtype in _HALF and mode != "exact":
        return CudaPackedCall(bits, group_size)
    return None
