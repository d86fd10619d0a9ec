"""ONNX operators that read and write at positions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from graphwright.frontends.onnx.table import Call, register
from graphwright.frontends.onnx.values import Known, is_scalar, number, numbers, rank_of, tensor


@register("Gather")
def gather(call: Call, x: Any, indices: Any) -> torch.Tensor:
    """Items at positions along one axis; rows of a table are an embedding."""
    x, axis = tensor(x), call.attr("axis", 0) % rank_of(x)
    if is_scalar(indices) and rank_of(indices) == 0:
        return torch.select(x, axis, number(indices))
    where = tensor(indices)
    if axis == 0 and x.dim() == 2 and isinstance(x, torch.nn.Parameter) and x.is_floating_point():
        return F.embedding(where, x)
    if isinstance(indices, Known) and indices.is_constant and where.dim() == 1:
        return x.index_select(axis, torch.tensor([n % x.shape[axis] for n in numbers(indices)]))
    return x[(slice(None),) * axis + (where,)]


@register("GatherElements")
def gather_elements(call: Call, x: Any, indices: Any) -> torch.Tensor:
    """One item for each index along an axis."""
    x, axis = tensor(x), call.attr("axis", 0)
    return x.gather(axis, _wrapped(tensor(indices), x.shape[axis]))


def _wrapped(indices: torch.Tensor, size: Any) -> torch.Tensor:
    """Indices of which negative ones count from the end."""
    return torch.where(indices < 0, indices + size, indices)


@register("GatherND")
def gather_nd(call: Call, x: Any, indices: Any) -> torch.Tensor:
    """Slices at positions that are rows of the index tensor."""
    x, where, batch = tensor(x), tensor(indices), call.attr("batch_dims", 0)
    lead = [torch.arange(x.shape[i]).view([-1 if j == i else 1 for j in range(where.dim() - 1)]) for i in range(batch)]
    return x[(*lead, *where.unbind(-1))]


@register("ScatterND")
def scatter_nd(call: Call, x: Any, indices: Any, updates: Any) -> torch.Tensor:
    """Slices written at positions that are rows of the index tensor."""
    reduction = call.attr("reduction", "none")
    if reduction not in ("none", "add"):
        raise call.unsupported(f"reduction '{reduction}'")
    return tensor(x).index_put(tensor(indices).unbind(-1), tensor(updates), accumulate=reduction == "add")


@register("ScatterElements")
def scatter_elements(call: Call, x: Any, indices: Any, updates: Any) -> torch.Tensor:
    """One item written for each index along an axis."""
    x, axis, reduction = tensor(x), call.attr("axis", 0), call.attr("reduction", "none")
    where = _wrapped(tensor(indices), x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, where, tensor(updates))
    if reduction == "add":
        return x.scatter_add(axis, where, tensor(updates))
    kind = {"mul": "prod", "max": "amax", "min": "amin"}[reduction]
    return x.scatter_reduce(axis, where, tensor(updates), kind)


@register("TensorScatter")
def tensor_scatter(call: Call, past: Any, update: Any, positions: Any = None) -> torch.Tensor:
    """A cache with new entries written at a position of each batch item."""
    past, update, axis = tensor(past), tensor(update), call.attr("axis", -2)
    if call.attr("mode", "linear") != "linear":
        raise call.unsupported("a circular cache")
    start = torch.zeros(past.shape[0], dtype=torch.int64) if positions is None else tensor(positions)
    where = start[:, None] + torch.arange(update.shape[axis])
    sizes = [1] * past.dim()
    sizes[0], sizes[axis] = -1, update.shape[axis]
    return past.scatter(axis, where.view(sizes).expand_as(update), update)


@register("OneHot")
def one_hot(call: Call, indices: Any, depth: Any, values: Any) -> torch.Tensor:
    """One of two values for each class."""
    where, count = tensor(indices), number(depth)
    axis = call.attr("axis", -1)
    axis %= where.dim() + 1
    classes = torch.arange(count).view([-1 if i == axis else 1 for i in range(where.dim() + 1)])
    off, on = tensor(values).unbind(0)
    return torch.where(_wrapped(where, count).unsqueeze(axis) == classes, on, off)


@register("NonZero")
def non_zero(call: Call, x: Any) -> torch.Tensor:
    """Positions of what is not zero, one row for each dimension."""
    return torch.nonzero(tensor(x)).transpose(0, 1)


@register("Compress")
def compress(call: Call, x: Any, condition: Any) -> torch.Tensor:
    """Slices for which a condition holds."""
    x, axis = tensor(x), call.attr("axis")
    if axis is None:
        x, axis = x.reshape(-1), 0
    return x.index_select(axis, torch.nonzero(tensor(condition)).reshape(-1))
