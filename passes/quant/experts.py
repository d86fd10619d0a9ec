"""Experts: several weights in one tensor with three axes, each multiplied with the tokens that are routed to it.

`grouped_mm(x, W, ends)` multiplies rows `ends[e - 1] .. ends[e]` of `x` `[tokens, K]` with `W[e]` `[K, N]`. For the
solvers such a weight is a matrix of E * N outputs, whose every N outputs have a Hessian of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import Node

from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.options import Options
from graphwright.passes.quant.rounding import round_to_nearest
from graphwright.passes.quant.solver import solve

GROUPED = ("aten._grouped_mm.default", "transformers.grouped_mm_fallback.default")


def is_grouped(node: Node) -> bool:
    """Whether a node multiplies groups of rows, each with a matrix of its own."""
    return node.op == "call_function" and str(node.target) in GROUPED


def as_matrix(weight: Tensor) -> Tensor:
    """`[E, K, N]` as `[E * N, K]`; a matrix as it is."""
    return weight if weight.dim() == 2 else weight.transpose(1, 2).flatten(0, 1)


def as_experts(matrix: Tensor, experts: int) -> Tensor:
    """The reverse of `as_matrix`: `[E * N, K]` as `[E, K, N]`."""
    return matrix.unflatten(0, (experts, -1)).transpose(1, 2)


class ExpertMoments:
    """Second moments of the rows that each expert gets, in float64.

    Args:
        experts: How many there are.
        products: Dtype of the products, None for that of the rows.

    Attributes:
        hessian: `[E, K, K]`, once there are rows.
        tokens: `[E]`, rows of each expert.
    """

    def __init__(self, experts: int, products: torch.dtype | None = None) -> None:
        self.experts, self.products = experts, products
        self.hessian: Tensor | None = None
        self.tokens = torch.zeros(experts, dtype=torch.float64)

    def add(self, x: Tensor, ends: Tensor) -> None:
        """Add a batch of rows `[tokens, K]`; expert `e` gets those before `ends[e]` that no earlier one got."""
        width = x.shape[-1]
        if self.hessian is None:
            self.hessian = x.new_zeros((self.experts, width, width), dtype=torch.float64)
        for i, rows in enumerate(_parts(x if self.products is None else x.to(self.products), ends)):
            self.hessian[i] += (rows.T @ rows).double()
            self.tokens[i] += len(rows)

    def tensors(self) -> Sequence[Tensor]:
        """All sums, in a fixed order."""
        assert self.hessian is not None
        self.tokens = self.tokens.to(self.hessian.device)
        return [self.hessian, self.tokens]


def _parts(x: Tensor, ends: Tensor) -> Iterator[Tensor]:
    start = 0
    for end in ends.long().tolist():
        yield x[start:end]
        start = end


def solve_experts(weight: Tensor, moments: ExpertMoments, options: Options) -> QuantizedLinear:
    """Quantize `[E * N, K]`, expert by expert; one that got no rows is rounded.

    The order `act` scatters groups differently in each expert, so `static` stands in for it.
    """
    assert moments.hessian is not None
    options = replace(options, order="static") if options.order == "act" else options
    parts = [
        solve(rows, hessian, options) if tokens else round_to_nearest(rows, options)
        for rows, hessian, tokens in zip(
            weight.chunk(moments.experts), moments.hessian, moments.tokens.tolist(), strict=True
        )
    ]
    return joined(parts)


def joined(parts: Sequence[QuantizedLinear]) -> QuantizedLinear:
    """Quantized weights of the same options one below the other; errors are root mean squares."""
    first = parts[0]
    return replace(
        first,
        codes=torch.cat([part.codes for part in parts]),
        scales=torch.cat([part.scales for part in parts]),
        zeros=None if first.zeros is None else torch.cat([part.zeros for part in parts if part.zeros is not None]),
        error=_mean([part.error or 0.0 for part in parts]),
        rtn_error=_mean([part.rtn_error or 0.0 for part in parts]),
        damping=max(part.damping for part in parts),
    )


def _mean(values: Sequence[float]) -> float:
    return (sum(value**2 for value in values) / len(values)) ** 0.5
