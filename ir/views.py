"""Views: which calls return a tensor that looks into another one, by the op's schema and, where that leaves it open, by
running the op on fake tensors.

The result of an in-place op is a view, too: it is the tensor that was written to.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Node
from torch.fx.node import map_arg

from graphwright.ir.infer import inference_scope
from graphwright.ir.memo import kind
from graphwright.ir.node import OpOverload, bound, is_call, value_of

aten = torch.ops.aten

# Ops that copy only if they must.
_MAYBE_VIEWS = (
    aten.reshape, aten.reshape_as, aten.flatten, aten.ravel, aten.contiguous, aten.to, aten.type_as,
)  # fmt: skip
# By fake mode, whose symbols they are about: repeated layers ask for the same types.
_KNOWN: WeakKeyDictionary[FakeTensorMode, dict[Hashable, bool]] = WeakKeyDictionary()
_DROPOUTS = (aten.dropout, aten.feature_dropout, aten.alpha_dropout, aten.feature_alpha_dropout)


def is_view(node: Node) -> bool:
    """Whether a call returns a view of its first argument, or several of them, or one of several."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
        return False
    if node.target is operator.getitem:
        return isinstance(value_of(node.args[0]), (list, tuple)) and is_view(node.args[0])
    if is_call(node, *_MAYBE_VIEWS):
        if "is_view" not in node.meta:  # kept, since rewriting what the node reads may change its layout
            node.meta["is_view"] = _shares_memory(node)
        return node.meta["is_view"]
    if is_call(node, *_DROPOUTS):  # returns its input where it is inactive
        return not bound(node)["train"] or bound(node)["p"] == 0
    return isinstance(node.target, OpOverload) and _aliases_first(node.target)


@lru_cache(maxsize=4096)
def _aliases_first(op: OpOverload) -> bool:
    """Whether the schema says that the (first) result shares memory with the first argument."""
    arguments, results = op._schema.arguments, op._schema.returns
    if not arguments or not results or arguments[0].alias_info is None or results[0].alias_info is None:
        return False
    is_list = "*" in arguments[0].alias_info.after_set
    return is_list or bool(arguments[0].alias_info.before_set & results[0].alias_info.before_set)


def _shares_memory(node: Node) -> bool:
    """Whether the result of a call lies in the memory of its first argument, tried on fake tensors."""
    source: Any = value_of(node.args[0])  # type: ignore[arg-type]
    args, kwargs = map_arg(node.args, value_of), map_arg(node.kwargs, value_of)
    if not isinstance(source, FakeTensor):
        return _runs_to_view(node.target, source, args, kwargs)
    known, key = _KNOWN.setdefault(source.fake_mode, {}), (node.target, kind(args), kind(kwargs))
    if key not in known:
        with inference_scope(source.fake_mode):
            known[key] = _runs_to_view(node.target, source, args, kwargs)
    return known[key]


def _runs_to_view(target: Any, source: Any, args: Any, kwargs: Any) -> bool:
    return target(*args, **kwargs).untyped_storage()._cdata == source.untyped_storage()._cdata


def view_source(node: Node) -> Node:
    """The tensor that a view looks into; for one of several views, the call that made them."""
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
