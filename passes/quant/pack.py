"""Quantized linears in a program: one `graphwright::packed_linear` each, and the float weight leaves the state.

A weight that several linears share is packed once. An embedding that is tied to a quantized output projection goes on
reading the float weight: rows of it are looked up, not multiplied, so the two part ways.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.ir.edit import Edit
from graphwright.ir.errors import PassError
from graphwright.ir.node import bound, is_call, module_path, shape_of, value_of, where
from graphwright.ir.packed import PackedWeight, pack_codes
from graphwright.ir.program import Program
from graphwright.passes.quant.codes import QuantizedLinear

aten = torch.ops.aten
packed_linear = torch.ops.graphwright.packed_linear.default
unpack_weight = torch.ops.graphwright.unpack_weight.default


def pack_linear(edit: Edit, node: Node, quantized: QuantizedLinear) -> Node:
    """Replace a linear by one packed call; `drop_unused` then removes the float weight from the state.

    Args:
        edit: The open transaction; `node` is among its matched nodes.
        node: An `aten.linear` whose weight is [N, K].
        quantized: What stands for the weight.

    Returns:
        The packed call, of the type of `node`.

    Raises:
        PassError: `node` is no linear, or its weight has another size.
    """
    sizes = tuple(quantized.codes.shape)
    if not is_call(node, aten.linear) or shape_of(bound(node)["weight"]) != sizes:
        raise PassError(f"a quantized weight of {sizes} does not fit this call", at=where(node))
    source, weight, bias = bound(node).values()
    operands = _operands(edit, weight, quantized)
    call = edit.call(packed_linear, source, *operands, bias, quantized.bits, quantized.group_size)
    _replace(edit, node, call, weight)
    return call


def pack_experts(edit: Edit, node: Node, quantized: QuantizedLinear) -> Node:
    """Let a product of experts read packed weights, which are dequantized where it runs.

    Args:
        edit: The open transaction; `node` is among its matched nodes.
        node: A product of groups, its weights [E, K, N].
        quantized: What stands for the weights, [E * N, K].

    Returns:
        The new product.

    Raises:
        PassError: The weights have another size.
    """
    source, weight, *rest = node.args
    experts, inputs, outputs = shape_of(weight) or (0, 0, 0)  # type: ignore[arg-type, misc]
    if tuple(quantized.codes.shape) != (experts * outputs, inputs):
        raise PassError(f"quantized experts of {tuple(quantized.codes.shape)} do not fit this call", at=where(node))
    operands, dtype = _operands(edit, weight, quantized), value_of(weight).dtype  # type: ignore[arg-type]
    matrix = edit.call(unpack_weight, *operands, quantized.bits, quantized.group_size, inputs, dtype)
    stacked = edit.aten.transpose(edit.aten.reshape(matrix, [experts, outputs, inputs]), 1, 2)
    call = edit.call(node.target, source, stacked, *rest, **node.kwargs)  # type: ignore[arg-type]
    _replace(edit, node, call, weight)
    return call


def _operands(edit: Edit, weight: Node, quantized: QuantizedLinear) -> list[Node | None]:
    """The tensors of a packed weight, in the state beside the weight that they stand for."""
    packed = pack(quantized)
    parts = {"packed_weight": packed.weight, "scales": packed.scales, "zeros": packed.zeros}
    parts["group_index"] = packed.group_index
    base, device = _base_name(weight), value_of(weight).device
    return [part if part is None else _state(edit, f"{base}.{name}", part, device) for name, part in parts.items()]


def _replace(edit: Edit, node: Node, call: Node, weight: Any) -> None:
    """Put a call in the place of a node, and erase what made its weight."""
    edit.replace(node, call)
    edit.erase(node)
    while isinstance(weight, Node) and all(user in edit.doomed for user in weight.users):
        edit.erase(weight)
        weight = weight.args[0] if weight.op == "call_function" else None


def pack(quantized: QuantizedLinear) -> PackedWeight:
    """The codes packed, everything else as it is."""
    weight = pack_codes(quantized.codes, quantized.bits)
    parts = (weight, quantized.scales, quantized.zeros, quantized.group_index)
    return PackedWeight(*parts, quantized.bits, quantized.group_size, quantized.codes.shape[1])


def drop_unused(program: Program) -> list[str]:
    """Remove from the state what no node reads any more; returns the names."""
    used = {str(node.target) for node in program.graph.nodes if node.op == "get_attr"}
    unused = [name for name in program.state if name not in used]
    for name in unused:
        del program.state[name]
    return unused


def packed_weights(program: Program) -> dict[str, PackedWeight]:
    """The packed weights of a program by module path, as `save_gptq` takes them.

    A call outside of any module, or the second one in a module, is named after its weight; so are experts, [E * N, K].
    """
    found: dict[str, PackedWeight] = {}
    for node in program.graph.nodes:
        if not is_call(node, packed_linear, unpack_weight):
            continue
        arguments = bound(node)
        parts = [_value(program, arguments[name]) for name in ("weight", "scales", "zeros", "group_index")]
        is_linear = is_call(node, packed_linear)
        inputs = int((shape_of(arguments["input"]) or (0,))[-1]) if is_linear else arguments["inputs"]
        packed = PackedWeight(*parts, arguments["bits"], arguments["group_size"], inputs)  # type: ignore[arg-type, call-arg]
        stored = str(arguments["weight"].target).removesuffix("packed_weight")[:-1]  # after a dot, or a line
        path = module_path(node) if is_linear else ""
        found[stored if not path or path in found else path] = packed
    return found


def _value(program: Program, node: Any) -> Tensor | None:
    return program.state[str(node.target)] if isinstance(node, Node) else None


def _base_name(weight: Node) -> str:
    """Where the packed tensors go: beside the weight that they stand for."""
    while weight.op == "call_function" and weight.all_input_nodes:
        weight = weight.all_input_nodes[0]
    return str(weight.target).removesuffix(".weight") if weight.op == "get_attr" else weight.name


def _state(edit: Edit, name: str, value: Tensor, device: torch.device) -> Node:
    """Read a tensor of the state, which holds equal ones once."""
    value = value.to(device).contiguous()
    state = edit.rewriter.program.state
    leaf = name.rpartition(".")[2]
    for other, known in state.items():
        if other.rpartition(".")[2].startswith(leaf) and _is_equal(known, value):
            return edit.get_state(other)
    return edit.get_state(name, value)


def _is_equal(known: Any, value: Tensor) -> bool:
    """Whether two tensors are the same; their first rows mostly tell."""
    alike = isinstance(known, Tensor) and known.dtype == value.dtype and known.shape == value.shape
    return alike and torch.equal(known[:1], value[:1]) and torch.equal(known, value)
