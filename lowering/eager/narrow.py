"""Half precision where the user allows it: products run in bfloat16, and so does what follows them until a wide op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.ir.infer import fake_mode_of, infer
from graphwright.ir.invariants import is_mutating
from graphwright.ir.node import is_call, value_of
from graphwright.ir.program import Program
from graphwright.ir.rewriter import is_needed
from graphwright.ir.views import is_view, view_root
from graphwright.lowering.eager.linear import onednn_linear
from graphwright.lowering.eager.speeds import user_speeds

aten = torch.ops.aten

# Products: what they add up is kept in float32 by their kernels.
_PRODUCTS = (
    aten.linear, aten.matmul, aten.bmm, aten.baddbmm, aten.scaled_dot_product_attention, aten.conv1d, aten.conv2d,
    aten.convolution, torch.ops.graphwright.attention, torch.ops.graphwright.varlen_attention,
    torch.ops.graphwright.packed_linear,
)  # fmt: skip
# Ops that are as good in half precision as their input is.
_FOLLOWERS = (
    aten.relu, aten.gelu, aten.silu, aten.tanh, aten.sigmoid, aten.dropout, aten.cat, aten.split,
    aten.split_with_sizes, aten.clone, aten.contiguous, aten.neg, aten.mul.Tensor,
)  # fmt: skip


def narrow_dtype(name: str) -> torch.dtype | None:
    """The dtype to narrow to where the user allows `name`: None for float32, and where it is slower on this machine."""
    if name == "float32" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    dtype = getattr(torch, name)
    x, weight = torch.ones(128, 1024), torch.ones(1024, 1024)
    narrow_x, packed = x.to(dtype), torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype), None)
    forms = {
        "float32": lambda: onednn_linear(x, weight, None, "none", [], ""),
        name: lambda: onednn_linear(narrow_x, packed, None, "none", [], ""),
    }
    return dtype if user_speeds().fastest(f"dtype threads={torch.get_num_threads()}", forms) == name else None


def narrow(program: Program, dtype: torch.dtype = torch.bfloat16) -> Program:
    """A copy of `program` whose float32 products on a CPU run in `dtype`; its results keep their dtypes.

    Activations and gates between products stay in `dtype`. Residual sums and norms stay in float32, or the error would
    grow with the depth, and so do softmaxes that are written out, rotary angles and whatever else.
    """
    copy = program.clone()
    worker = _Narrowing(copy, dtype)
    for node in list(copy.graph.nodes):
        worker.visit(node)
    copy.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or is_needed(node))
    copy.touch()
    return copy


class _Narrowing:
    """State of one run: the narrow version of each value, and the wide version of each narrow one."""

    def __init__(self, program: Program, dtype: torch.dtype) -> None:
        self.graph, self.dtype = program.graph, dtype
        self.mode = fake_mode_of(program.graph)
        self.narrowed: dict[Node, Node] = {}
        self._casts: dict[tuple[Node, torch.dtype], Node] = {}

    def visit(self, node: Node) -> None:
        """Narrow a node, or give it wide operands."""
        if self._is_narrowable(node):
            kept = _kept_operands(node)
            operands = {source: self._narrow(source, node) for source in _floats(node) if source not in kept}
            new = self._call(node, node.target, *map_arg((node.args, node.kwargs), lambda n: operands.get(n, n)))
            new.meta = {**node.meta, "val": new.meta["val"]}
            self.narrowed[node] = new
            return
        for source in node.all_input_nodes:
            if source in self.narrowed:
                node.replace_input_with(source, self._wide(source, node))

    def _is_narrowable(self, node: Node) -> bool:
        value = value_of(node)
        first = value[0] if isinstance(value, (tuple, list)) and value else value
        if node.op != "call_function" or not _is_wide(first):
            return False
        if is_call(node, *_PRODUCTS):
            kept = _kept_operands(node)
            if any(_is_cache(source) for source in node.all_input_nodes):
                return False
            return all(_is_wide(value_of(source)) for source in node.all_input_nodes[:2] if source not in kept)
        sources = [
            source for source in node.all_input_nodes if isinstance(value_of(source), (torch.Tensor, list, tuple))
        ]
        if not sources or not any(source in self.narrowed for source in sources):
            return False
        if is_call(node, aten.cat, aten.mul):
            return all(source in self.narrowed for source in sources)
        return (is_call(node, *_FOLLOWERS) or is_view(node)) and sources[0] in self.narrowed

    def _narrow(self, source: Node, before: Node) -> Node:
        if source in self.narrowed:
            return self.narrowed[source]
        return self._cast(source, self.dtype, before)

    def _wide(self, source: Node, before: Node) -> Node:
        return self._cast(self.narrowed[source], torch.float32, before)

    def _cast(self, source: Node, dtype: torch.dtype, before: Node) -> Node:
        """The value in another dtype; a mask's lowest number stays finite, so that fully masked rows do."""
        if (source, dtype) not in self._casts:
            value = source
            is_factor = is_call(before, *_PRODUCTS) and source in before.args[:3]
            if dtype == self.dtype and not is_factor and source.op != "get_attr":
                value = self._call(before, aten.clamp_min.default, (source, torch.finfo(dtype).min), {})
            self._casts[source, dtype] = self._call(before, aten.to.dtype, (value, dtype), {})
        return self._casts[source, dtype]

    def _call(self, before: Node, target: Any, args: Any, kwargs: Any) -> Node:
        with self.graph.inserting_before(before):
            node = self.graph.create_node("call_function", target, tuple(args), dict(kwargs))
        node.meta["val"] = infer(self.mode, target, node.args, node.kwargs)
        return node


def _kept_operands(node: Node) -> Sequence[Any]:
    """Operands that stay wide: scales of packed weights, since codes were chosen for them."""
    return node.args[1:5] if is_call(node, torch.ops.graphwright.packed_linear) else ()


def _is_cache(source: Node) -> bool:
    """Whether a value is an input with something appended: to narrow all of it at each call is no gain."""
    root = view_root(source)
    if root.op == "placeholder":
        return any(map(is_mutating, root.users))
    return is_call(root, aten.index_copy, aten.cat) and any(map(_is_wide_input, root.all_input_nodes))


def _is_wide_input(node: Node) -> bool:
    return node.op == "placeholder" and _is_wide(value_of(node))


def _is_wide(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.device.type == "cpu"


def _floats(node: Node) -> list[Node]:
    """Operands of floating point, tuples of tensors included."""
    return [s for s in node.all_input_nodes if _is_wide(value_of(s)) or isinstance(value_of(s), (tuple, list))]
