"""Grouped-query attention: keys and values repeated for several query heads, undone."""

from __future__ import annotations

import torch
from torch.fx import Node

from graphwright.ir.infer import same_size
from graphwright.ir.node import bound, is_call, shape_of

aten = torch.ops.aten


def unrepeated(node: Node) -> tuple[Node, int]:
    """The tensor [batch, kv heads, length, width] that `node` repeats along the heads, and how often.

    A node that repeats nothing is returned as it is, with 1.
    """
    source = _repeat_kv(node) or _repeat_interleave(node)
    if source is None:
        return node, 1
    heads, kv_heads = (shape_of(node) or ())[1], (shape_of(source) or ())[1]
    if not isinstance(heads, int) or not isinstance(kv_heads, int):
        return node, 1
    return source, heads // kv_heads


def _repeat_kv(node: Node) -> Node | None:
    """`reshape(expand(unsqueeze(x, 2), [b, kv, n, l, d]), [b, kv * n, l, d])` -> x."""
    if not is_call(node, aten.reshape):
        return None
    expand = node.args[0]
    if not is_call(expand, aten.expand) or not isinstance(expand, Node):
        return None
    unsqueeze = expand.args[0]
    if not isinstance(unsqueeze, Node) or not is_call(unsqueeze, aten.unsqueeze) or unsqueeze.args[1] != 2:
        return None
    source = unsqueeze.args[0]
    before, wide, after = shape_of(unsqueeze) or (), shape_of(expand) or (), shape_of(node) or ()
    if not isinstance(source, Node) or len(wide) != 5 or len(after) != 4:
        return None
    only_copies = all(same_size(before[i], wide[i]) for i in (0, 1, 3, 4))
    merges = all(same_size(a, b) for a, b in ((wide[0], after[0]), (wide[3], after[2]), (wide[4], after[3])))
    return source if only_copies and merges else None


def _repeat_interleave(node: Node) -> Node | None:
    """`repeat_interleave(x, n, dim=1)` -> x."""
    if not is_call(node, aten.repeat_interleave.self_int):
        return None
    arguments = bound(node)
    source = arguments["self"]
    is_heads = arguments["dim"] in (1, -3) and len(shape_of(node) or ()) == 4
    return source if is_heads and isinstance(source, Node) else None
