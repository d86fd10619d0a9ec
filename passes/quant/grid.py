"""Grids: scales and zero points of each group, searched for the least weighted error.

Everything in a solver is laid out `[inputs, outputs]`, so that one input's weights are contiguous.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from graphwright.passes.quant.options import Options

_CHUNK = 1 << 18  # weights searched at once: they stay in the cache of a core
# Shares of the full range to try, by bits: from, to, steps.
_RATIOS = {
    2: (0.3, 1.0, 12),
    3: (0.45, 1.0, 11),
    4: (0.55, 1.0, 10),
    8: (0.9, 1.0, 3),
}


@dataclass
class Grid:
    """Scales and zero points, float32 `[groups, outputs]`."""

    scale: Tensor
    zero: Tensor
    top: int

    def quantize(self, weight: Tensor, group: Tensor) -> Tensor:
        """The nearest codes of weights `[inputs, outputs]` whose inputs belong to the groups `[inputs]`."""
        return (weight / self.scale[group] + self.zero[group]).round_().clamp_(0, self.top)

    def dequantize(self, codes: Tensor, group: Tensor) -> Tensor:
        """The weights that codes stand for."""
        return (codes - self.zero[group]) * self.scale[group]


def search_grid(weight: Tensor, importance: Tensor, width: int, options: Options) -> Grid:
    """The grid with the least error, each weight counted by the importance of its input.

    Args:
        weight: float32 `[inputs, outputs]`, the inputs of a group next to each other.
        importance: float32 `[inputs]`, such as the Hessian's diagonal.
        width: Inputs of a group; the last group may have fewer.
        options: Bits, symmetry, dtype of the scales.
    """
    inputs, outputs = weight.shape
    missing = -inputs % width
    weight = torch.nn.functional.pad(weight, (0, 0, 0, missing)).view(-1, width, outputs)
    importance = torch.nn.functional.pad(importance, (0, missing)).view(-1, width, 1)
    if weight.is_cuda:
        return Grid(*_search(weight, importance, options), options.top)
    step = max(1, _CHUNK // width)
    rows = [
        torch.cat([torch.stack(_search(part[None], weights[None], options)) for part in group.split(step, 1)], -1)
        for group, weights in zip(weight, importance, strict=True)
    ]
    scale, zero = torch.cat(rows, 1).unbind(0)
    return Grid(scale, zero, options.top)


def _search(weight: Tensor, importance: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """The best scale and zero point `[groups, outputs]` of weights `[groups, width, outputs]`."""
    best = scale = zero = torch.empty(0)
    for s, z in _candidates(weight, options):
        codes = torch.addcmul(z[:, None], weight, (1 / s)[:, None]).round_().clamp_(0, options.top)
        error = codes.sub_(z[:, None]).mul_(s[:, None]).sub_(weight).square_().mul_(importance).sum(1)
        if not best.numel():
            best, scale, zero = error, s, z
        better = error < best
        best, scale, zero = (torch.where(better, a, b) for a, b in ((error, best), (s, scale), (z, zero)))
    return scale, zero


def _candidates(weight: Tensor, options: Options) -> Iterator[tuple[Tensor, Tensor]]:
    """Scales and zero points `[groups, outputs]` to try: shares of the range, both signs, either side clipped."""
    low, high = weight.amin(1).clamp(max=0), weight.amax(1).clamp(min=0)
    flat = low == high
    low, high = low.masked_fill(flat, -1.0), high.masked_fill(flat, 1.0)
    first, last, steps = _RATIOS[options.bits]
    for ratio in torch.linspace(last, first, steps).tolist():
        if options.symmetric:
            yield from _symmetric(torch.maximum(-low, high) * ratio, options)
        else:
            yield from _asymmetric(low * ratio, high * ratio, options)
    if not options.symmetric:
        for ratio in (0.9, 0.8, 0.7):
            yield from _asymmetric(low * ratio, high, options)
            yield from _asymmetric(low, high * ratio, options)


def _symmetric(reach: Tensor, options: Options) -> Iterator[tuple[Tensor, Tensor]]:
    middle = torch.full_like(reach, (options.top + 1) // 2)
    scale = options.round_scales(2 * reach / options.top)
    yield scale, middle
    if options.signed_scales:
        scale = options.round_scales(2 * reach / (options.top + 1))
        yield scale, middle
        yield -scale, middle


def _asymmetric(low: Tensor, high: Tensor, options: Options) -> Iterator[tuple[Tensor, Tensor]]:
    scale = options.round_scales((high - low) / options.top)
    yield scale, (-low / scale).round_().clamp_(0, options.top)
