"""Plain rounding to a grid whose scales are searched."""

from __future__ import annotations

import torch
from torch import Tensor

from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.grid import search_grid
from graphwright.passes.quant.options import SCALE_DTYPES, Options


@torch.no_grad()
def round_to_nearest(weight: Tensor, options: Options, importance: Tensor | None = None) -> QuantizedLinear:
    """Round a weight `[outputs, inputs]`; `importance` `[inputs]` weights the search for scales."""
    inputs = weight.shape[1]
    width = options.width(inputs)
    weights = weight.float().T.contiguous()
    importance = weights.new_ones(inputs) if importance is None else importance.float()
    grid = search_grid(weights, importance, width, options)
    group = torch.arange(inputs, device=weight.device) // width
    codes = grid.quantize(weights, group)
    error = _norm((grid.dequantize(codes, group) - weights), importance) / (_norm(weights, importance) or 1.0)
    return QuantizedLinear(
        codes=codes.T.contiguous().to(torch.uint8),
        scales=grid.scale.T.contiguous().to(SCALE_DTYPES[options.scale_dtype]),
        zeros=None if options.symmetric else grid.zero.T.contiguous().to(torch.uint8),
        group_index=None,
        bits=options.bits,
        group_size=width,
        error=error,
        rtn_error=error,
    )


def _norm(values: Tensor, importance: Tensor) -> float:
    return float((values.square() * importance[:, None]).sum().sqrt())
