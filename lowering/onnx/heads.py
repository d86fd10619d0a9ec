"""Attention whose keys and values are repeated for several query heads, as grouped-query attention."""

from __future__ import annotations

import torch

from graphwright.ir.node import bound, is_call
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.passes.attention.heads import unrepeated

aten = torch.ops.aten


def group_heads(program: Program, rewriter: Rewriter) -> None:
    """Give `scaled_dot_product_attention` the keys and values as they are before they are repeated.

    Models that call it themselves repeat first, which copies the whole cache at every step.
    """
    for node in [n for n in program.graph.nodes if is_call(n, aten.scaled_dot_product_attention)]:
        arguments = bound(node)
        (key, times), (value, value_times) = unrepeated(arguments["key"]), unrepeated(arguments["value"])
        if times != value_times or times == 1 or arguments["enable_gqa"]:
            continue
        with rewriter.site("GroupHeads", (node,)) as edit:
            rest = [arguments[name] for name in ("attn_mask", "dropout_p", "is_causal")]
            options = {"scale": arguments["scale"], "enable_gqa": True}
            edit.replace(node, edit.call(node.target, arguments["query"], key, value, *rest, **options))
            edit.erase(node)
