"""The processes of a command that `torchrun` started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import typer


@dataclass(frozen=True)
class Place:
    """Where this process computes, and whether it is the one that writes.

    Args:
        device: Its device.
        is_first: Whether it is the only process, or the first of several.
    """

    device: str
    is_first: bool


@contextmanager
def process_group(device: str) -> Iterator[Place]:
    """Join the other processes of `torchrun`, if it started this one.

    Args:
        device: `cpu`, `cuda`, or `auto` for a GPU if there is one; each process of a machine takes its own GPU.

    Raises:
        typer.BadParameter: There is no such device, or fewer GPUs than processes.
    """
    import torch
    import torch.distributed as dist

    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    local, count = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if device not in ("auto", "cpu", "cuda") or (on_gpu and local >= torch.cuda.device_count()):
        raise typer.BadParameter(f"there is no device '{device}' for process {local} of this machine")
    if on_gpu:
        torch.cuda.set_device(local)
    place = f"cuda:{local}" if on_gpu else "cpu"
    if count == 1:
        yield Place(place, True)
        return
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Place(place, dist.get_rank() == 0)
    finally:
        dist.destroy_process_group()
