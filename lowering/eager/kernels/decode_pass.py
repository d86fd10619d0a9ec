"""The pass `fuse-decode-attention`: the rotation, the writes to a static cache and the attention of one new token.

index_copy_(keys, 2, slot, rotary(key)), index_copy_(values, 2, slot, value), attention(rotary(query), keys, values)
    -> decode_attention(keys, values, query, key, value, slot, cos, sin, mask)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.infer import same_size
from graphwright.ir.node import bound, is_call, shape_of, value_of
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.lowering.eager.kernels.decode_attention import MAX_WIDTH
from graphwright.passes.base import Pass
from graphwright.passes.patterns.match import Miss

aten = torch.ops.aten
RULE = "FuseDecodeAttention"
_PATTERN = "attention(query, index_copy_(keys), index_copy_(values))"


class Obstacle(Exception):
    """Why an attention is not rewritten; the message says it."""


@dataclass(frozen=True)
class FuseDecodeAttention(Pass):
    """Make one kernel of each attention of a decode step and its updates of a static cache."""

    name = "fuse-decode-attention"
    requires = frozenset({"functional"})

    def apply(self, program: Program, rewriter: Rewriter) -> Iterable[Miss]:
        """Rewrite every attention on a static cache; returns those that stay."""
        misses = []
        for node in [node for node in program.graph.nodes if is_call(node, aten.scaled_dot_product_attention)]:
            try:
                _rewrite(node, rewriter)
            except Obstacle as reason:
                misses.append(Miss(RULE, node, str(reason), node, 1, _PATTERN, (0, len(_PATTERN))))
        return misses


def _rewrite(node: Node, rewriter: Rewriter) -> None:
    arguments = bound(node)
    _check(node, arguments)
    keys, values = (_update(arguments[name]) for name in ("key", "value"))
    slot = bound(keys)["index"]
    _require(bound(values)["index"] is slot, "keys and values are written at different places")
    query, key, angles, rotations = _unrotated(arguments["query"], bound(keys)["source"])
    mask = _mask(arguments["attn_mask"])
    scale = arguments["scale"] if arguments["scale"] is not None else (shape_of(query) or ())[-1] ** -0.5
    buffers = [bound(update)["self"] for update in (keys, values)]
    chain = [*_repeats(arguments["key"]), *_repeats(arguments["value"])]
    with rewriter.site(RULE, sorted({*rotations, keys, values, *chain, node})) as edit:
        new = edit.call(
            torch.ops.graphwright.decode_attention.default,
            *buffers, query, key, bound(values)["source"], slot, *angles, mask, scale=scale,
        )  # fmt: skip
        edit.replace(node, new)
        for update, buffer in zip((keys, values), buffers, strict=True):
            edit.replace(update, buffer, users=lambda user: user.op == "output")
        for old in (node, *chain, keys, values, *rotations):
            if all(user in edit.doomed for user in old.users):
                edit.erase(old)


def _require(condition: Any, reason: str) -> None:
    if not condition:
        raise Obstacle(reason)


def _check(node: Node, arguments: dict[str, Any]) -> None:
    sizes = shape_of(arguments["query"]) or ()
    _require(len(sizes) == 4 and sizes[2] == 1, "it has more than one query for each sequence")
    width = sizes[3]
    _require(isinstance(width, int) and width & (width - 1) == 0, "the width of its heads is no power of two")
    _require(16 <= width <= MAX_WIDTH, f"the width of its heads is not within 16 and {MAX_WIDTH}")
    _require(not arguments["dropout_p"] and not arguments["is_causal"], "it drops weights, or is causal without a mask")
    _require((shape_of(arguments["value"]) or ())[-1] == width, "keys and values differ in width")


def _repeats(node: Node) -> list[Node]:
    """Nodes that only repeat heads, outermost first."""
    if not is_call(node, aten.reshape, aten.view):
        return []
    expand = node.args[0]
    if not isinstance(expand, Node) or not is_call(expand, aten.expand):
        return []
    unsqueeze = expand.args[0]
    if (
        not isinstance(unsqueeze, Node)
        or not is_call(unsqueeze, aten.unsqueeze)
        or bound(unsqueeze)["dim"] not in (2, -3)
    ):
        return []
    return [node, expand, unsqueeze]


def _update(node: Node) -> Node:
    """The write to the buffer that keys or values are read from."""
    chain = _repeats(node)
    source = bound(chain[-1])["self"] if chain else node
    _require(is_call(source, aten.index_copy_) and bound(source)["dim"] == 2, "its keys or values are no static cache")
    _require(bound(source)["self"].op == "placeholder", "its cache is not an input")
    users = {user for user in source.users if user.op != "output"}
    _require(len(users) == 1, "its cache has other readers")
    return source


def _unrotated(query: Node, key: Node) -> tuple[Node, Node, tuple[Any, Any], list[Node]]:
    """Query and key before they are rotated by the same angles, the angles, and the rotations."""
    rotary = torch.ops.graphwright.rotary_embedding
    if not (is_call(query, rotary) and is_call(key, rotary)):
        return query, key, (None, None), []
    one, other = bound(query), bound(key)
    same = one["cos"] is other["cos"] and one["sin"] is other["sin"] and not one["interleaved"]
    sizes = shape_of(one["cos"]) or ()
    whole = len(sizes) == 4 and sizes[1] == 1 and sizes[2] == 1 and same_size(sizes[3], (shape_of(query) or ())[3])
    same_dtype = value_of(one["cos"]).dtype == value_of(query).dtype == value_of(one["x"]).dtype
    if not (same and whole and same_dtype and not other["interleaved"]):
        return query, key, (None, None), []
    return one["x"], other["x"], (one["cos"], one["sin"]), [query, key]


def _mask(mask: Any) -> Any:
    """A mask that has one row for each sequence."""
    if mask is None:
        return None
    sizes = shape_of(mask) or ()
    _require(value_of(mask).dtype == torch.bool, "its mask is not boolean")
    _require(len(sizes) == 4 and sizes[1] == 1 and sizes[2] == 1, "its mask differs from head to head")
    return mask
