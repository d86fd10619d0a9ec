"""Kernels of our own as operators that `torch.compile` calls and does not look into.

Inductor would compile the Triton kernels in them anew, which it cannot: they call other ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule

from graphwright.lowering.eager.kernels.packed_attention import packed_attention
from graphwright.lowering.eager.kernels.packed_plan import unpack_rows

_LIBRARY = torch.library.Library("graphwright", "FRAGMENT")
_ATTENTION = (
    "(Tensor query, Tensor key, Tensor value, Tensor tokens, Tensor offsets, Tensor keys, Tensor key_offsets,"
    " Tensor? bias, SymInt length, float scale, bool chosen) -> Tensor"
)
_UNPACK = "(Tensor x, Tensor sources, SymInt batch, SymInt length) -> Tensor"


def _fake_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
    return query.new_empty([1, query.shape[2], query.shape[1], value.shape[-1]]).transpose(1, 2)


def _fake_unpack(x: Tensor, sources: Tensor, batch: int, length: int) -> Tensor:
    return x.new_empty([batch, length, *x.shape[2:]])


def _define(function: Callable[..., Tensor], schema: str, fake: Callable[..., Tensor]) -> Any:
    name = function.__name__
    _LIBRARY.define(name + schema)
    _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"graphwright::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.graphwright, name).default


OPS: dict[Any, Any] = {
    packed_attention: _define(packed_attention, _ATTENTION, _fake_attention),
    unpack_rows: _define(unpack_rows, _UNPACK, _fake_unpack),
}


def opaque(module: GraphModule) -> Callable[..., tuple[Any, ...]]:
    """The forward of a copy of a module whose calls of our kernels are such operators."""
    graph = Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for node in graph.nodes:
        node.target = OPS.get(node.target, node.target) if node.op == "call_function" else node.target
    return GraphModule(module, graph).forward
