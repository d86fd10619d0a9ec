"""Inlining of regions that torch.export wraps: no-grad and autocast blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from graphwright.ir.edit import Edit
from graphwright.ir.node import value_of
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.passes.canonicalize.noise import may_need_gradient

aten = torch.ops.aten


def inline_regions(program: Program, rewriter: Rewriter) -> int:
    """Inline every region that computes the same without its wrapper; returns how many."""
    inlined = 0
    while regions := [node for node in program.graph.nodes if _is_inlinable(node)]:
        for region in regions:
            with rewriter.site("InlineRegion", (region,)) as edit:
                _inline(region, program, edit)
        inlined += len(regions)
    return inlined


def _is_inlinable(node: Node) -> bool:
    """No-grad regions always; autocast regions only where autocast is off inside."""
    name = getattr(node.target, "__name__", "")
    if node.op != "call_function" or not isinstance(node.target, torch._ops.HigherOrderOperator):
        return False
    if name == "wrap_with_set_grad_enabled":
        return True
    return name == "wrap_with_autocast" and node.args[2] is False


def _inline(region: Node, program: Program, edit: Edit) -> None:
    header = 1 if getattr(region.target, "__name__", "") == "wrap_with_set_grad_enabled" else 4
    holder: Any = region.args[header]
    body: GraphModule = program.state[str(holder.target)]
    no_grad = header == 1 and region.args[0] is False
    results = _copy_body(body, list(region.args[header + 1 :]), program, edit)
    if no_grad:
        results = [_cut_gradient(result, edit) for result in results]
    for user in list(region.users):
        edit.replace(user, results[int(user.args[1])])  # type: ignore[arg-type]
        edit.erase(user)
    edit.erase(region)
    if all(user is region for user in holder.users):
        edit.erase(holder)


def _copy_body(body: GraphModule, arguments: list[Any], program: Program, edit: Edit) -> list[Any]:
    """Copy the nodes of a region into the program; returns the values of its results."""
    values: dict[Node, Any] = {}
    for node in body.graph.nodes:
        if node.op == "placeholder":
            values[node] = arguments[len(values)]
        elif node.op == "get_attr":
            values[node] = edit.get_state(f"region.{node.target}", getattr(body, str(node.target)))
        elif node.op == "output":
            return list(map_arg(node.args[0], values.__getitem__))
        else:
            values[node] = edit.copy(
                node, map_arg(node.args, values.__getitem__), map_arg(node.kwargs, values.__getitem__)
            )
            if node.meta.get("unbacked_bindings"):  # sizes that depend on values keep the symbols that users know
                values[node].meta["val"] = value_of(node)
    raise AssertionError("a graph ends with its output")


def _cut_gradient(result: Any, edit: Edit) -> Any:
    """Outside a no-grad region, gradients must not flow into what was inside."""
    is_tensor = isinstance(result, Node) and isinstance(value_of(result), torch.Tensor)
    return edit.aten.detach(result) if is_tensor and may_need_gradient(result) else result
