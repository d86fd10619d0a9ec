"""Caches of fixed size: written in place by the model, functional while they are rewritten."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.node import bound, is_call
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.passes.base import Pass

aten = torch.ops.aten
RULE = "FunctionalCache"


@dataclass(frozen=True)
class HpuCache(Pass):
    """Turn `index_copy_` of an input that comes out as a result into `index_copy`, so that what reads it can be fused.

    The pass `static-cache` is the way back. An input that is read again after it was written stays as it is.
    """

    name = "hpu-cache"

    def apply(self, program: Program, rewriter: Rewriter) -> Iterable[Any] | None:
        """Rewrite every such update."""
        results = {value for value in program.results if isinstance(value, Node)}
        for node in [node for node in program.graph.nodes if is_call(node, aten.index_copy_)]:
            source = bound(node)["self"]
            alone = source.op == "placeholder" and all(user <= node for user in source.users)
            if alone and node in results:
                with rewriter.site(RULE, (node,)) as edit:
                    edit.replace(node, edit.call(aten.index_copy.default, *bound(node).values()))
                    edit.erase(node)
        return None
