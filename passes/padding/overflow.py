"""Clamps that look for overflows in all tokens at once, as T5 has them in float16, rewritten to look token by token."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.fx import Node

from graphwright.ir.node import bound, is_call, value_of
from graphwright.ir.rewriter import Rewriter

aten = torch.ops.aten
RULE = "ClampEachToken"


def clamp_of(node: Node) -> Node | None:
    """The call that clamps `x` to a bound that depends on `node = any(isinf(x))`; None for any other `node`."""
    infinite = node.args[0] if is_call(node, aten.any.default) else None
    if not isinstance(infinite, Node) or not is_call(infinite, aten.isinf):
        return None
    bounds = list(node.users)
    if len(bounds) != 1 or not is_call(bounds[0], aten.where.Scalar):
        return None
    clamps = [user for user in bounds[0].users if is_call(user, aten.clamp.Tensor)]
    if len(clamps) != 1:
        return None
    arguments = bound(clamps[0])
    below = arguments["min"]
    is_negative = isinstance(below, Node) and is_call(below, aten.neg) and below.args[0] is bounds[0]
    is_only = is_negative and set(bounds[0].users) == {below, clamps[0]} and set(below.users) == {clamps[0]}
    return clamps[0] if is_only and arguments["self"] is infinite.args[0] and arguments["max"] is bounds[0] else None


def clamp_each_token(nodes: Iterable[Node], rewriter: Rewriter) -> None:
    """Rewrite the clamps of these `any(isinf(x))`: the bound of each token depends on that token.

    A finite value at the very end of the range, between the two bounds, is kept where only other tokens have
    overflowed; all else stays as it is.
    """
    for node in nodes:
        clamp = clamp_of(node)
        assert clamp is not None
        x = bound(clamp)["self"]
        with rewriter.site(RULE, (node, clamp)) as edit:
            edit.insert_before(clamp)
            where = next(iter(node.users))
            limit = edit.aten.where.Scalar(edit.aten.any.dim(node.args[0], -1, True), *where.args[1:])
            limit = edit.aten.to.dtype(limit, value_of(x).dtype)
            edit.replace(clamp, edit.aten.clamp.Tensor(x, edit.aten.neg(limit), limit))
