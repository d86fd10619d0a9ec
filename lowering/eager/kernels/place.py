"""Which calls of a program run as kernels of our own on a GPU, in half precision, where no gradient is recorded.

linear, activation(linear) `activated_linear`
norm(a + b), norm(a)       `residual_norm`
varlen_attention           `packed_attention`
unpack_tokens              `token_sources`, `unpack_rows`
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.ir.infer import same_shape
from graphwright.ir.node import bound, is_call, shape_of, value_of
from graphwright.ir.program import Program
from graphwright.lowering.eager.kernels.activated_linear import activated_linear
from graphwright.lowering.eager.kernels.packed_attention import MAX_WIDTH, packed_attention
from graphwright.lowering.eager.kernels.packed_plan import token_sources, unpack_rows
from graphwright.lowering.eager.kernels.residual_norm import residual_norm

aten = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)
_OPS = torch.ops.graphwright
_PACKED = (_OPS.varlen_attention, _OPS.unpack_tokens)
_ACTIVATED = (aten.gelu, aten.silu, aten.relu)  # before the linears that they follow


def place_kernels(
    program: Program, *, fuse: bool = True, device: str = "cuda", dtypes: Sequence[torch.dtype] = _HALF
) -> Program:
    """A copy of a functional `program` with our kernels in place; itself where there is nothing for them.

    Args:
        program: The program; it stays as it is.
        fuse: Replace linears and norms as well, not only what concerns packed tokens.
        device: Type of device whose calls are replaced.
        dtypes: Dtypes whose calls are replaced; for others the kernels fall back to ATen's ops.
    """
    ops = (*_PACKED, aten.layer_norm, aten.rms_norm, *_ACTIVATED, aten.linear) if fuse else _PACKED

    def fits(node: Node) -> bool:
        value = value_of(node) if is_call(node, *ops) else None
        return isinstance(value, torch.Tensor) and value.dtype in dtypes and value.device.type == device

    devices = {tensor.device for tensor in program.tensors().values() if tensor.dim() > 1}
    if len(devices) != 1 or not any(map(fits, program.graph.nodes)):
        return program  # Triton launches on one GPU at a time
    copy = program.clone()
    sources: dict[Node, Node] = {}
    found = [node for node in copy.graph.nodes if fits(node)]
    for node in sorted(found, key=lambda node: is_call(node, aten.linear)):
        _place(node, sources)
    return copy


def _place(node: Node, sources: dict[Node, Node]) -> None:
    if is_call(node, _OPS.varlen_attention):
        _place_attention(node)
    elif is_call(node, _OPS.unpack_tokens):
        _place_unpacking(node, sources)
    elif is_call(node, aten.layer_norm, aten.rms_norm):
        _place_norm(node)
    elif is_call(node, aten.linear):
        _place_linear(node)
    else:
        _place_activation(node)


def _replace(node: Node, function: Any, arguments: tuple[Any, ...]) -> None:
    with node.graph.inserting_before(node):
        call = node.graph.call_function(function, arguments)
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    node.graph.erase_node(node)


# ---- packed tokens -----------------------------------------------------------------------------


def _place_attention(node: Node) -> None:
    arguments = bound(node)
    widths = [(shape_of(arguments[name]) or (None,))[-1] for name in ("query", "value")]
    first = bool(bound(arguments["tokens"].args[0])["first"])
    fits = all(isinstance(width, int) and width <= MAX_WIDTH for width in widths)
    if fits and arguments["dropout_p"] == 0 and not (first and arguments["uniform"]):
        names = ("query", "key", "value", "tokens", "offsets", "keys", "key_offsets", "bias", "length", "scale")
        _replace(node, packed_attention, (*(arguments[name] for name in names), first))


def _place_unpacking(node: Node, sources: dict[Node, Node]) -> None:
    arguments = bound(node)
    tokens, batch, length = (arguments[name] for name in ("tokens", "batch", "length"))
    if arguments["keys"] is None:
        return
    if tokens not in sources:
        with node.graph.inserting_before(node):
            size = node.graph.call_function(operator.mul, (batch, length))
            sources[tokens] = node.graph.call_function(token_sources, (tokens, arguments["keys"], size))
            sources[tokens].meta = dict(tokens.meta)
    _replace(node, unpack_rows, (arguments["x"], sources[tokens], batch, length))


# ---- linears -----------------------------------------------------------------------------------


def _place_activation(node: Node) -> None:
    """An activation, and the linear before it if nothing else reads that."""
    linear = node.args[0]
    name = "silu" if is_call(node, aten.silu) else "relu" if is_call(node, aten.relu) else "gelu"
    if name == "gelu" and bound(node)["approximate"] == "tanh":
        name = "gelu_tanh"
    if isinstance(linear, Node) and is_call(linear, aten.linear) and len(linear.users) == 1 and _is_plain(linear):
        arguments = bound(linear)
        _replace(node, activated_linear, (arguments["input"], arguments["weight"], arguments["bias"], name))
        linear.graph.erase_node(linear)


def _place_linear(node: Node) -> None:
    if node.users and _is_plain(node):
        arguments = bound(node)
        _replace(node, activated_linear, (arguments["input"], arguments["weight"], arguments["bias"], "none"))


def _is_plain(linear: Node) -> bool:
    """Whether all operands of a linear have one dtype, and its weight two axes."""
    arguments = bound(linear)
    operands = [operand for operand in arguments.values() if operand is not None]
    same = len({value_of(operand).dtype for operand in operands}) == 1
    return same and len(shape_of(arguments["weight"]) or ()) == 2


# ---- norms -------------------------------------------------------------------------------------


def _place_norm(node: Node) -> None:
    arguments = bound(node)
    vectors = [arguments["weight"], arguments.get("bias")]
    dtype = value_of(node).dtype
    fits = all(vector is None or value_of(vector).dtype == dtype for vector in vectors)
    if len(arguments["normalized_shape"]) != 1 or arguments["eps"] is None or not fits:
        return
    tail = (None, *vectors, arguments["eps"], is_call(node, aten.rms_norm))
    total = arguments["input"]
    operands = _summands(total)
    if operands is None or any(isinstance(vector, Node) and not vector < min(total.users) for vector in vectors):
        _replace(node, residual_norm, (total, None, *tail, False))
    elif len(total.users) == 1:
        _replace(node, residual_norm, (*operands, *tail, False))
        total.graph.erase_node(total)
    else:
        _place_both(node, total, (*operands, *tail, True))


def _place_both(node: Node, total: Node, arguments: tuple[Any, ...]) -> None:
    """The sum and its norm from one call, in front of the first user of either."""
    graph, first = node.graph, min(total.users)
    with graph.inserting_before(first):
        pair = graph.call_function(residual_norm, arguments)
        pair.meta = {**node.meta, "val": (value_of(total), value_of(node))}
        both = [graph.call_function(operator.getitem, (pair, i)) for i in range(2)]
    for old, new in zip((total, node), both, strict=True):
        new.meta = dict(old.meta)
        old.replace_all_uses_with(new)
    graph.erase_node(node)
    graph.erase_node(total)


def _summands(node: Any) -> tuple[Node, Node] | None:
    """The two tensors of the same type as their sum; None for anything else."""
    if not isinstance(node, Node) or not is_call(node, aten.add.Tensor) or bound(node)["alpha"] != 1:
        return None
    one, other = bound(node)["self"], bound(node)["other"]
    return (one, other) if _is_alike(one, node) and _is_alike(other, node) else None


def _is_alike(node: Any, total: Node) -> bool:
    if not isinstance(node, Node):
        return False
    have, want = value_of(node), value_of(total)
    is_tensor = isinstance(have, torch.Tensor) and have.dtype == want.dtype and have.device == want.device
    return is_tensor and same_shape(tuple(have.shape), tuple(want.shape))
