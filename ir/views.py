"""Views: which ops return a tensor that looks into another one."""

from __future__ import annotations

import torch
from torch.fx import Node

from graphwright.ir.node import value_of

aten = torch.ops.aten

_VIEWS = (
    aten.view.default, aten.slice.Tensor, aten.select.int, aten.transpose.int, aten.t.default, aten.permute.default,
    aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.expand.default,
    aten.alias.default, aten.detach.default, aten.diagonal.default, aten.view_as.default, aten.lift_fresh_copy.default,
)  # fmt: skip
_MAYBE_VIEWS = (aten.reshape.default, aten.contiguous.default, aten.to.dtype, aten.to.device, aten.to.dtype_layout)


def is_view(node: Node) -> bool:
    """Whether a call returns a view of its first argument."""
    if node.op != "call_function":
        return False
    if node.target in _MAYBE_VIEWS:
        source, value = value_of(node.args[0]), value_of(node)  # type: ignore[arg-type]
        same_type = source.dtype == value.dtype and source.device == value.device
        return same_type and source.is_contiguous()
    return node.target in _VIEWS and node.target is not aten.lift_fresh_copy.default


def view_source(node: Node) -> Node:
    """The tensor that a view looks into."""
    source = node.args[0]
    assert isinstance(source, Node)
    return source


def view_root(node: Node) -> Node:
    """The tensor that a chain of views ends in; the node itself if it is no view."""
    while is_view(node):
        node = view_source(node)
    return node


def views_of(root: Node) -> list[Node]:
    """`root` and all views of it, in graph order."""
    found, stack = {root}, [root]
    while stack:
        for user in stack.pop().users:
            if user not in found and is_view(user) and view_source(user) in found:
                found.add(user)
                stack.append(user)
    return sorted(found)
