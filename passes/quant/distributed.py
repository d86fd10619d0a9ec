"""Calibration batches spread over processes: moments are added up, the linears of a stage are solved side by side.

Started by `torchrun`. Every process streams its own batches; moments are float64, so that their sums round to the same
float32 values in whatever order they are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from graphwright.ir.errors import PassError
from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.experts import ExpertMoments
from graphwright.passes.quant.moments import Moments
from graphwright.passes.quant.options import SCALE_DTYPES
from graphwright.passes.quant.sites import ExpertSite, Site

T = TypeVar("T")


def world_size() -> int:
    """How many processes work together; 1 outside of a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is."""
    return dist.get_rank() if world_size() > 1 else 0


def own_share(items: Sequence[T]) -> Sequence[T]:
    """The batches of this process; the same number of batches need not fall to each.

    Raises:
        PassError: There are fewer batches than processes.
    """
    if len(items) < world_size():
        raise PassError(f"{len(items)} batches cannot be spread over {world_size()} processes")
    return items[rank() :: world_size()]


def add_up(moments: Moments | ExpertMoments) -> None:
    """Replace the sums by those over all processes."""
    for tensor in moments.tensors():
        summed(tensor)


def summed(tensor: Tensor) -> Tensor:
    """A tensor, which now holds its sum over all processes."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def exchange(site: Site, position: int, solved: QuantizedLinear | None, shape: torch.Size) -> QuantizedLinear:
    """The codes of a linear `[outputs, inputs]`, from the process that solved it to all of them.

    Args:
        site: The linear.
        position: Its place in the stage; `owner(position)` solved it.
        solved: The codes, on the process that has them.
        shape: Shape of the weight.
    """
    if world_size() == 1:
        assert solved is not None
        return solved
    item = solved if solved is not None else _blank(site, shape)
    facts = torch.tensor([item.error or 0.0, item.rtn_error or 0.0, item.damping], dtype=torch.float64)
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    item, facts = item.to(device), facts.to(device)
    for tensor in (item.codes, item.scales, item.zeros, item.group_index, facts):
        if tensor is not None:
            dist.broadcast(tensor, owner(position))
    error, rtn_error, damping = facts.tolist()
    return replace(item.to("cpu"), error=error, rtn_error=rtn_error, damping=damping)


def owner(position: int) -> int:
    """The process that solves the linear at a place of a stage."""
    return position % world_size()


def _blank(site: Site, shape: torch.Size) -> QuantizedLinear:
    """Room for the codes of a weight."""
    options = site.options
    outputs, inputs = shape
    width = options.width(inputs)
    scales = torch.empty(outputs, -(-inputs // width), dtype=SCALE_DTYPES[options.scale_dtype])
    is_scattered = options.order == "act" and width < inputs and not isinstance(site, ExpertSite)
    return QuantizedLinear(
        codes=torch.empty(outputs, inputs, dtype=torch.uint8),
        scales=scales,
        zeros=None if options.symmetric else torch.empty(scales.shape, dtype=torch.uint8),
        group_index=torch.empty(inputs, dtype=torch.int32) if is_scattered else None,
        bits=options.bits,
        group_size=width,
    )
