"""Second moments of a linear's input over all calibration batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from graphwright.passes.quant.sites import Stage

_ROWS = 512  # of a product that is made at once on a CPU
_CACHED = 1 << 17  # elements that are converted to float64 at once there, so that they stay in the cache of a core
_STRIP = 128  # tokens that are transposed at once


class Moments:
    """What a solver needs to know of the data, summed in float64 so that the order of batches does not matter.

    Args:
        stage: Linears that share an input; `residuals` are summed for those that are added to a residual stream.
        products: Dtype in which products of values are made, None for that of the values.

    Attributes:
        hessian: `X^T X`; until `complete` is called, entries right of the blocks of the diagonal may be missing.
        drift: `(F - X)^T X` with `F` the float model's input in place of `X`, None if not wanted.
        residuals: By site, `(R_F - R)^T X` with `R` what the output is added to.
        tokens: Rows of `X`.
    """

    def __init__(self, stage: Stage, products: torch.dtype | None = None) -> None:
        self.stage, self.products = stage, products
        self.hessian: Tensor | None = None
        self.drift: Tensor | None = None
        self.residuals: dict[str, Tensor] = {}
        self.tokens = 0

    def add(
        self,
        x: Tensor,
        keep: Tensor | None,
        float_x: Tensor | None = None,
        residuals: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            x: The quantized model's input `[..., inputs]`.
            keep: Boolean `[...]`, the rows that count; None for all.
            float_x: The float model's input.
            residuals: By site, the differences `R_F - R` `[..., outputs]`.
        """
        rows = _rows(x, keep)
        self.tokens += len(rows)
        columns = self._columns(rows)
        self.hessian = add_product(self.hessian, columns, columns, symmetric=True)
        if float_x is not None:
            difference = self._columns(_rows(float_x, keep) - rows)
            self.drift = add_product(self.drift, difference, columns)
        for path, value in (residuals or {}).items():
            difference = self._columns(_rows(value, keep))
            self.residuals[path] = add_product(self.residuals.get(path), difference, columns)

    def complete(self) -> None:
        """Fill in the half of the Hessian that was not summed."""
        if self.hessian is not None and not self.hessian.is_cuda:
            for start in range(0, len(self.hessian), _ROWS):
                end = start + _ROWS
                self.hessian[start:end, end:] = self.hessian[end:, start:end].T

    def correction(self, path: str, weight: Tensor) -> Tensor | None:
        """`E^T X` of a site: what its output should have beyond `X W^T`, `[outputs, inputs]`."""
        parts = [] if self.drift is None else [weight.float() @ self.drift.float()]
        parts += [self.residuals[path].float()] if path in self.residuals else []
        return torch.stack(parts).sum(0) if parts else None

    def take(self) -> Tensor:
        """The Hessian in float32; all sums are given up."""
        assert self.hessian is not None
        hessian = self.hessian.float()
        self.hessian = self.drift = None
        self.residuals.clear()
        return hessian

    def tensors(self) -> Sequence[Tensor]:
        """All sums, in a fixed order."""
        own = [tensor for tensor in (self.hessian, self.drift) if tensor is not None]
        return [*own, *(self.residuals[path] for path in sorted(self.residuals))]

    def _columns(self, rows: Tensor) -> Tensor:
        """`[columns, tokens]`, next to each other on a CPU: products are twice as fast than of transposed views."""
        rows = rows if self.products is None else rows.to(self.products)
        if rows.is_cuda:
            return rows.T
        columns = rows.new_empty(rows.shape[::-1])
        for start in range(0, len(rows), _STRIP):
            columns[:, start : start + _STRIP] = rows[start : start + _STRIP].T
        return columns


def _rows(x: Tensor, keep: Tensor | None) -> Tensor:
    return x.reshape(-1, x.shape[-1]) if keep is None else x[keep]


def add_product(total: Tensor | None, a: Tensor, b: Tensor, *, symmetric: bool = False) -> Tensor:
    """Add `a @ b^T` in float64; with `symmetric`, for one and the same, at least what is not right of the diagonal."""
    if total is None:
        total = a.new_zeros((len(a), len(b)), dtype=torch.float64)
    if a.is_cuda:
        half = a.dtype in (torch.bfloat16, torch.float16)
        return total.add_(torch.mm(a, b.T, out_dtype=torch.float32) if half else a @ b.T)
    for start in range(0, len(a), _ROWS):
        end = start + _ROWS
        product = a[start:end] @ (b[:end] if symmetric else b).T
        _add(total[start:end, : product.shape[1]], product)
    return total


def _add(total: Tensor, part: Tensor) -> None:
    """Add a part of another dtype, a few rows at a time: PyTorch would convert all of it in memory."""
    step = max(1, _CACHED // part.shape[1])
    for rows, new in zip(total.split(step), part.split(step), strict=True):
        rows.add_(new.double())
