"""The `quantize-rtn` pass: every weight is rounded to the nearest code of a searched grid; no data is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphwright.ir.program import Program
from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.gptq import Quantize
from graphwright.passes.quant.rounding import round_to_nearest
from graphwright.passes.quant.sites import Site
from graphwright.passes.quant.stream import Stream


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
