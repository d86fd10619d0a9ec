"""The `quantize-inc` pass: the weight-only algorithms of Intel Neural Compressor on a program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from graphwright.ir.edit import Edit
from graphwright.ir.errors import PassError
from graphwright.ir.node import bound, value_of
from graphwright.ir.program import Program
from graphwright.passes.quant import neural_compressor
from graphwright.passes.quant.calibrate import Calibrator
from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.gptq import Quantize
from graphwright.passes.quant.int8 import RoundedLinear, pack_rounded, quantize_int8
from graphwright.passes.quant.options import Options, Order
from graphwright.passes.quant.pack import pack_linear
from graphwright.passes.quant.sites import Site, Stage
from graphwright.passes.quant.stream import Stream


@dataclass(frozen=True, eq=False)
class ScaledLinear(QuantizedLinear):
    """A quantized linear whose inputs are multiplied with factors first.

    Args:
        input_scale: Factors `[K]`; None for none.
    """

    input_scale: Tensor | None = None

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight `[N, K]` for inputs as they come."""
        weight = super().dequantize(dtype)
        return weight if self.input_scale is None else weight * self.input_scale.to(dtype)


@dataclass(frozen=True)
class QuantizeInc(Quantize):
    """Quantize linears with Neural Compressor: `rtn`, `hqq` and `dynamic` need no data, the others are calibrated.

    `static` and `dynamic` give 8-bit weights per output and 8-bit inputs per tensor. The rest takes bits, group size,
    symmetry (HQQ is always asymmetric), order (`none`, `act`), damping and overrides.

    Args:
        method: The algorithm.
        tokens: Most tokens of the calibration data that AWQ looks at for one stage.
    """

    name = "quantize-inc"

    method: Literal["rtn", "hqq", "gptq", "awq", "static", "dynamic"] = "gptq"
    order: Order = "act"
    damping: float = 0.01
    tokens: int = 2048

    def linear_options(self) -> Options:
        """Options without what only our own solver does."""
        return replace(super().linear_options(), float_target=False, residual_target=False, signed_scales=False)

    def quantize(self, program: Program, sites: Sequence[Site]) -> dict[str, QuantizedLinear]:
        """Weight by weight, or stage by stage on what the quantized linears before it give."""
        neural_compressor.require()
        if self.method in ("rtn", "hqq"):
            return self._without_data(program, sites)
        if self.method in ("static", "dynamic"):
            return self._int8(program, sites)
        results: dict[str, QuantizedLinear] = {}
        run = Calibrator(program, sites, self._data())
        for i, stage in enumerate(run.stages):
            if self.progress is not None:
                self.progress(i, len(run.stages), [site.path for site in stage.sites])
            solved = self._scaled(run, stage) if self.method == "awq" else self._solved(run, stage)
            run.use(solved)
            results |= solved
        return results

    def _without_data(self, program: Program, sites: Sequence[Site]) -> dict[str, QuantizedLinear]:
        stream = Stream(program, [site.weight for site in sites], [])
        solve = neural_compressor.half_quadratic if self.method == "hqq" else neural_compressor.round_to_nearest
        results: dict[str, QuantizedLinear] = {}
        for i, site in enumerate(sites):
            if self.progress is not None:
                self.progress(i, len(sites), [site.path])
            if site.path not in results:
                results[site.path] = solve(stream.weight(site.node), site.options)
        return results

    def _int8(self, program: Program, sites: Sequence[Site]) -> dict[str, QuantizedLinear]:
        if self.heldout:
            raise PassError("held-out text is scored on rounded weights only", remedies=["graphwright tune"])
        dynamic = self.method == "dynamic"
        calls = [program.example.leaves()] if dynamic else [program.flatten(**b) for b in self._data().batches]
        return quantize_int8(program, sites, calls, dynamic=dynamic)

    def _solved(self, run: Calibrator, stage: Stage) -> dict[str, QuantizedLinear]:
        hessian = run.measure(stage).hessian
        assert hessian is not None
        weights = {site: run.stream.weight(site.node) for site in stage.sites}
        return {
            site.path: neural_compressor.gptq(weight, hessian, site.options).to("cpu")
            for site, weight in weights.items()
        }

    def _scaled(self, run: Calibrator, stage: Stage) -> dict[str, QuantizedLinear]:
        inputs = list(self._inputs(run, stage))
        found: dict[str, QuantizedLinear] = {}
        for options in dict.fromkeys(site.options for site in stage.sites):
            sites = [site for site in stage.sites if site.options == options]
            weights = [run.stream.weight(site.node) for site in sites]
            for site, (codes, scale) in zip(
                sites, neural_compressor.activation_aware(weights, inputs, options), strict=True
            ):
                found[site.path] = ScaledLinear(**vars(codes), input_scale=scale)
        return found

    def _inputs(self, run: Calibrator, stage: Stage) -> Iterator[Tensor]:
        """Inputs of a stage `[1, tokens, features]`, without padding."""
        left = self.tokens
        for values, mask in zip(run.stream.advance(stage.input), run.masks, strict=True):
            x = values[stage.input]
            rows = x[mask] if mask is not None and mask.shape == x.shape[:-1] else x.flatten(0, -2)
            if left > 0:
                yield rows[:left].unsqueeze(0)
            left -= len(rows)

    def pack(self, edit: Edit, site: Site, result: QuantizedLinear) -> None:
        """Put a linear's codes in its place, and the factors of its inputs before it."""
        node, scale = site.node, getattr(result, "input_scale", None)
        if isinstance(result, RoundedLinear):
            return pack_rounded(edit, node, result)
        if scale is None:
            return super().pack(edit, site, result)
        source, weight, bias = bound(node).values()
        like = value_of(source)
        factor = edit.get_state(f"{site.path}.input_scale", scale.to(like.device, like.dtype))
        linear = edit.aten.linear(edit.aten.mul(source, factor), weight, bias)
        edit.replace(node, linear)
        edit.erase(node)
        pack_linear(edit, linear, result)
        return None
