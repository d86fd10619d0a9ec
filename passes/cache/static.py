"""The `static-cache` pass: a cache of fixed size is updated in place instead of being copied at every step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.fx import Node

from graphwright.ir.node import bound, is_call
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.passes.base import Pass
from graphwright.passes.patterns.match import Miss

aten = torch.ops.aten
RULE = "StaticCache"
_PATTERN = "index_copy(input, dim, index, source) as a result"


@dataclass(frozen=True)
class StaticCache(Pass):
    """Turn `index_copy` of an input that comes out as a result into `index_copy_` on that input.

    The caller hands in a buffer and gets the same buffer back with the new keys or values in it. Programs without
    such a buffer stay as they are.
    """

    name = "static-cache"
    requires = frozenset({"functional"})

    def apply(self, program: Program, rewriter: Rewriter) -> Iterable[Miss]:
        """Rewrite every update; returns the updates that must stay copies."""
        misses: list[Miss] = []
        results = {value for value in program.results if isinstance(value, Node)}
        for node in [node for node in results if is_call(node, aten.index_copy)]:
            reason, culprit = _obstacle(node)
            if reason:
                misses.append(Miss(RULE, node, reason, culprit, 1, _PATTERN, (0, len(_PATTERN))))
                continue
            with rewriter.site(RULE, (node,)) as edit:
                edit.replace(node, edit.call(aten.index_copy_.default, *bound(node).values()))
                edit.erase(node)
        return misses


def _obstacle(node: Node) -> tuple[str, Node | None]:
    """Why an update cannot be made in place, and the node to blame; an empty reason if it can."""
    source = bound(node)["self"]
    if not isinstance(source, Node) or source.op != "placeholder":
        return "what it updates is not an input", source if isinstance(source, Node) else None
    readers = [user for user in source.users if user is not node and not is_call(user, aten.sym_size)]
    if readers:
        return f"{readers[0]} also reads the input as it was", readers[0]
    return "", None
