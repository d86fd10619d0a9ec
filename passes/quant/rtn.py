"""The `quantize-rtn` pass: every weight is rounded to the nearest code of a searched grid; no data is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphwright.ir.program import Program
from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.gptq import Quantize
from graphwright.passes.quant.grid import search_grid
from graphwright.passes.quant.options import SCALE_DTYPES, Options
from graphwright.passes.quant.sites import Site
from graphwright.passes.quant.stream import Stream


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


@dataclass(frozen=True)
class QuantizeRtn(Quantize):
    """Quantize linears to integer codes by rounding, with scales that are searched for the least error."""

    name = "quantize-rtn"

    def quantize(self, program: Program, sites: Sequence[Site]) -> dict[str, QuantizedLinear]:
        """Weight by weight."""
        stream = Stream(program, [site.weight for site in sites], [])
        results: dict[str, QuantizedLinear] = {}
        for i, site in enumerate(sites):
            if self.progress is not None:
                self.progress(i, len(sites), [site.path])
            if site.path not in results:
                results[site.path] = round_to_nearest(stream.weight(site.node), site.options)
        return results
