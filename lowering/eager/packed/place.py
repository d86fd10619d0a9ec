"""Which packed linears of a program run in kernels of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.ir.node import bound, is_call, value_of
from graphwright.ir.program import Program
from graphwright.lowering.eager.kernels import packed_linear_gemv as _gemv  # noqa: F401 - defines packed_gemv
from graphwright.lowering.eager.packed.cpu import PackedCall, PackedMode
from graphwright.lowering.eager.packed.cuda import CudaPackedCall, CudaPackedGemv

packed_linear = torch.ops.graphwright.packed_linear.default
packed_gemv = torch.ops.graphwright.packed_gemv.default
_OPS = (packed_linear, packed_gemv)
_HALF = (torch.float16, torch.bfloat16)


def place_packed(program: Program, mode: PackedMode) -> Program:
    """A copy of `program` whose packed linears choose among kernels; itself where it has none.

    Args:
        program: The program; it stays as it is.
        mode: What the kernels may do; see `PackedCall`.
    """
    if not any(is_call(node, *_OPS) for node in program.graph.nodes):
        return program
    copy = program.clone()
    for node in [node for node in copy.graph.nodes if is_call(node, *_OPS)]:
        _place(node, mode)
    return copy


def _place(node: Node, mode: PackedMode) -> None:
    arguments = bound(node)
    sizes, value = (arguments["bits"], arguments["group_size"]), value_of(node)
    if is_call(node, packed_gemv):
        target = CudaPackedGemv(*sizes, len(arguments["weights"])) if _is_half_on_gpu(value, mode) else None
        operands, options = node.args, dict(node.kwargs)
    else:
        target, options = _kernel(value, *sizes, mode), {}
        operands = tuple(arguments.values())[:-2]
    if target is None:
        return
    with node.graph.inserting_before(node):
        call = node.graph.call_function(target, operands, options)
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    node.graph.erase_node(node)


def _kernel(value: torch.Tensor, bits: int, group_size: int, mode: PackedMode) -> Any:
    """What runs for a result on its device; None for the reference."""
    if value.device.type == "cpu" and value.dtype in (torch.float32, torch.bfloat16):
        return PackedCall(bits, group_size, mode)
    return CudaPackedCall(bits, group_size) if _is_half_on_gpu(value, mode) else None


def _is_half_on_gpu(value: torch.Tensor, mode: PackedMode) -> bool:
    return value.device.type == "cuda" and value.dtype in _HALF and mode != "exact"
