"""Casts: one spelling, and none where the type stays."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.node import value_of
from graphwright.passes.local import RuleTable

aten = torch.ops.aten
TABLE = RuleTable()


@TABLE.local_rule(aten.to, aten._to_copy, aten.type_as)
def cast(node: Node, edit: Edit) -> Any:
    """`to` in its many forms is `to.dtype` when only the dtype changes, and nothing when nothing does."""
    source: Any = node.args[0]
    old, new = value_of(source), value_of(node)
    if not isinstance(old, torch.Tensor) or not isinstance(new, torch.Tensor):
        return None
    if old.device != new.device or old.layout != new.layout:
        return None
    if old.dtype == new.dtype:
        return source
    if node.target is aten.to.dtype and len(node.args) == 2 and not node.kwargs:
        return None
    return edit.call(aten.to.dtype, source, new.dtype)


@TABLE.local_rule(aten.to)
def cast_of_cast(node: Node, edit: Edit) -> Any:
    """A cast of a cast that lost nothing is one cast (f16 -> f32 -> f16 is nothing)."""
    source: Any = node.args[0]
    if not (isinstance(source, Node) and source.target is aten.to.dtype and node.target is aten.to.dtype):
        return None
    inner: Any = source.args[0]
    first, middle, last = value_of(inner).dtype, value_of(source).dtype, value_of(node).dtype
    if not _keeps_values(first, middle):
        return None
    return inner if first == last else edit.call(aten.to.dtype, inner, last)


def _keeps_values(narrow: torch.dtype, wide: torch.dtype) -> bool:
    """Whether every value of `narrow` is exactly representable in `wide`."""
    if narrow == torch.bool:
        return True
    if narrow.is_complex or wide.is_complex or narrow.is_floating_point != wide.is_floating_point:
        return False
    try:
        return torch.promote_types(narrow, wide) == wide
    except RuntimeError:  # torch promotes no 8-bit floats
        return narrow == wide
