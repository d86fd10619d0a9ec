"""Second moments of a linear's input over all calibration batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphwright.passes.quant.sites import Stage


class Moments:
    """What a solver needs to know of the data, summed in float64 so that the order of batches does not matter.

    Args:
        stage: Linears that share an input; `residuals` are summed for those that are added to a residual stream.
        products: Dtype in which products of values are made, None for that of the values.

    Attributes:
        hessian: `X^T X`.
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

    def add(self, x: Tensor, keep: Tensor | None, float_x: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            x: The quantized model's input `[..., inputs]`.
            keep: Boolean `[...]`, the rows that count; None for all.
            float_x: The float model's input.
        """
        rows = self._rows(x, keep)
        self.tokens += len(rows)
        self.hessian = _sum(self.hessian, self._product(rows, rows))
        if float_x is not None:
            self.drift = _sum(self.drift, self._product(self._rows(float_x, keep) - rows, rows))

    def add_residual(self, path: str, x: Tensor, keep: Tensor | None, difference: Tensor) -> None:
        """Add a batch of differences `R_F - R` `[..., outputs]` at the site `path`."""
        product = self._product(self._rows(difference, keep), self._rows(x, keep))
        self.residuals[path] = _sum(self.residuals.get(path), product)

    def correction(self, path: str, weight: Tensor) -> Tensor | None:
        """`E^T X` of a site: what its output should have beyond `X W^T`, `[outputs, inputs]`."""
        parts = [] if self.drift is None else [weight.float() @ self.drift.float()]
        parts += [self.residuals[path].float()] if path in self.residuals else []
        return torch.stack(parts).sum(0) if parts else None

    def tensors(self) -> Sequence[Tensor]:
        """All sums, in a fixed order."""
        own = [tensor for tensor in (self.hessian, self.drift) if tensor is not None]
        return [*own, *(self.residuals[path] for path in sorted(self.residuals))]

    def _rows(self, x: Tensor, keep: Tensor | None) -> Tensor:
        return x.reshape(-1, x.shape[-1]) if keep is None else x[keep]

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        """`a^T b` with float32 sums where the device has them."""
        a, b = (value if self.products is None else value.to(self.products) for value in (a, b))
        if a.is_cuda and a.dtype in (torch.bfloat16, torch.float16):
            return torch.mm(a.T, b, out_dtype=torch.float32)
        return a.T @ b


def _sum(total: Tensor | None, part: Tensor) -> Tensor:
    return part.double() if total is None else total.add_(part)
