"""Inputs of other sizes than a call's, to test a graph with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import sympy
import torch

from graphwright.runtime.call import Call
from graphwright.runtime.graph import CapturedGraph


def variants(graph: CapturedGraph, call: Call) -> Iterator[tuple[frozenset[sympy.Symbol], list[torch.Tensor]]]:
    """Tensors with other values of the graph's free sizes, the most different ones first.

    Not all of them make sense to the model: a mask must be as long as cache and tokens together. Sizes that are the
    sum of two others grow with them; what the original forward rejects is for the caller to skip.

    Yields:
        The sizes that differ, and the tensors.
    """
    sizes = graph.guard.symbols
    for count in range(len(sizes), 0, -1):
        for chosen in combinations(sizes, count):
            values = _grown(sizes, chosen)
            shapes = graph.guard.sizes_with(values)
            tensors = [_resized(tensor, shape) for tensor, shape in zip(call.tensors, shapes, strict=True)]
            tensors = _padded(call.tensor_names(), tensors)
            if graph.guard.accepts(tensors):
                yield frozenset(chosen), tensors


def _grown(sizes: dict[sympy.Symbol, int], chosen: Sequence[sympy.Symbol]) -> dict[sympy.Symbol, int]:
    """Larger sizes: equal sizes stay equal, and what looks like a sum of two sizes (or one and 1) stays that sum."""
    present = sorted({sizes[symbol] for symbol in chosen})
    growth: dict[int, int] = {}
    for i, size in enumerate(present):
        pair = next((p for p in combinations(growth, 2) if sum(p) == size), None)
        growth[size] = growth[pair[0]] + growth[pair[1]] if pair else growth.get(size - 1, i + 1)
    return {symbol: sizes[symbol] + growth[sizes[symbol]] for symbol in chosen}


def _resized(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The tensor with its contents repeated up to `shape`."""
    result = tensor.detach()
    for dim, size in enumerate(shape):
        if result.shape[dim] != size:
            index = torch.arange(size, device=result.device) % result.shape[dim]
            result = result.index_select(dim, index)
    return result.clone().requires_grad_(tensor.requires_grad)


def _padded(names: Sequence[str], tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Hide a position on the left in the first row and one on the right in the last of every 0/1 mask."""
    for name, tensor in zip(names, tensors, strict=True):
        is_flag = not tensor.is_floating_point() and tensor.dim() == 2 and bool((tensor <= 1).all())
        if "mask" in name and is_flag and tensor.shape[1] > 2:
            tensor[0, 0] = 0
            if tensor.shape[0] > 1:
                tensor[-1, -1] = 0
    return tensors
