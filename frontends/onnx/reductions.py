"""ONNX reductions, sorting and running sums."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from graphwright.frontends.onnx.shapes import axes_of
from graphwright.frontends.onnx.table import Call, register
from graphwright.frontends.onnx.values import number, tensor


def _reduce(kind: str, x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    match kind:
        case "ReduceMean":
            return x.mean(axes, keep)
        case "ReduceSum":
            return x.sum(axes, keep, dtype=x.dtype)
        case "ReduceMax":
            return x.amax(axes, keep)
        case "ReduceMin":
            return x.amin(axes, keep)
        case "ReduceL1":
            return x.abs().sum(axes, keep)
        case "ReduceL2":
            return x.square().sum(axes, keep).sqrt()
        case "ReduceSumSquare":
            return x.square().sum(axes, keep)
        case "ReduceLogSum":
            return x.sum(axes, keep).log()
        case _:
            return x.logsumexp(axes, keep)


@register(
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum",
    "ReduceLogSumExp",
)  # fmt: skip
def reduction(call: Call, x: Any, axes: Any = None) -> torch.Tensor:
    """A reduction over some axes, by default all."""
    x = tensor(x)
    chosen, nothing = axes_of(call, axes, x.dim()), call.attr("noop_with_empty_axes", 0)
    if not chosen:
        if nothing:
            return x
        chosen = list(range(x.dim()))
    return _reduce(call.node.op_type, x, chosen, bool(call.attr("keepdims", 1)))


@register("ReduceProd")
def product(call: Call, x: Any, axes: Any = None) -> torch.Tensor:
    """Product over some axes."""
    x, keep = tensor(x), bool(call.attr("keepdims", 1))
    chosen, nothing = axes_of(call, axes, x.dim()), call.attr("noop_with_empty_axes", 0)
    if not chosen and nothing:
        return x
    for axis in sorted(chosen or range(x.dim()), reverse=True):
        x = x.prod(axis, keep, dtype=x.dtype)
    return x


@register("ArgMax", "ArgMin")
def extreme(call: Call, x: Any) -> torch.Tensor:
    """Position of the largest or smallest item, the first one."""
    if call.attr("select_last_index", 0):
        raise call.unsupported("select_last_index")
    function = torch.argmax if call.node.op_type == "ArgMax" else torch.argmin
    return function(tensor(x), call.attr("axis", 0), bool(call.attr("keepdims", 1)))


@register("TopK")
def top_k(call: Call, x: Any, k: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest or smallest items and their positions."""
    chosen = torch.topk(tensor(x), number(k), call.attr("axis", -1), bool(call.attr("largest", 1)), True)
    return chosen[0], chosen[1]


@register("CumSum")
def running_sum(call: Call, x: Any, axis: Any) -> torch.Tensor:
    """Running sums, also backwards, or without the item itself."""
    x, dim = tensor(x), number(axis)
    turned = x.flip(dim) if call.attr("reverse", 0) else x
    total = turned.cumsum(dim, dtype=x.dtype)
    if call.attr("exclusive", 0):
        total = total - turned
    return total.flip(dim) if call.attr("reverse", 0) else total


@register("Softmax", "LogSoftmax")
def softmax(call: Call, x: Any) -> torch.Tensor:
    """Softmax or its logarithm along one axis (as since opset 13)."""
    function = F.softmax if call.node.op_type == "Softmax" else F.log_softmax
    return function(tensor(x), call.attr("axis", -1))


@register("Hardmax")
def hardmax(call: Call, x: Any) -> torch.Tensor:
    """One at the first largest item, zero elsewhere."""
    x, axis = tensor(x), call.attr("axis", -1)
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, True), 1.0)
