"""The `quantize-gptq` pass: linears get integer codes that keep their outputs on calibration data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from graphwright.ir.edit import Edit
from graphwright.ir.errors import PassError
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.passes.base import Pass
from graphwright.passes.quant.calibrate import Calibration, Progress, quantize
from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.evaluate import evaluate
from graphwright.passes.quant.options import Options
from graphwright.passes.quant.pack import drop_unused, pack_experts, pack_linear
from graphwright.passes.quant.progress import progress_bar
from graphwright.passes.quant.report import Report
from graphwright.passes.quant.sites import ExpertSite, Site, find_sites

Overrides = Mapping[str, Mapping[str, Any] | None]


@dataclass(frozen=True)
class Quantize(Options, Pass):
    """Base of the passes that quantize linears; the options are those of `Options`.

    Args:
        heads: Also linears that make the model's predictions, such as `lm_head`.
        experts: Also experts whose weights are one tensor with three axes.
        overrides: Glob of module paths -> options of its linears, None to leave them out.
        calibration: The data to calibrate with.
        heldout: Batches to score the model on, before and after.
        progress: Called with (stages done, all stages, paths of the next stage).
        show: Show a progress bar; not with `progress`.
    """

    requires = frozenset({"canonical"})
    approximate = True

    heads: bool = False
    experts: bool = True
    show: bool = False
    overrides: Overrides | None = field(default=None, compare=False, metadata={"spec": False})
    calibration: Calibration | None = field(default=None, compare=False, metadata={"spec": False})
    heldout: Sequence[dict[str, Any]] = field(default=(), compare=False, metadata={"spec": False})
    progress: Progress | None = field(default=None, compare=False, metadata={"spec": False})

    def apply(self, program: Program, rewriter: Rewriter) -> Iterable[Any] | None:
        """Quantize, pack, and note the report as `quantization`."""
        start = time.perf_counter()
        sites = find_sites(program, self.linear_options(), self.overrides, heads=self.heads, experts=self.experts)
        if not sites:
            raise PassError("there is no linear to quantize", remedies=["see the overrides, and `heads`"])
        results = self._quantize(program, sites)
        seconds = time.perf_counter() - start
        quality = evaluate(program, results, self.heldout, *self._placement()) if self.heldout else None
        rewriter.notes["quantization"] = Report.of(results, quality, seconds).to_json()
        for site in sites:
            with rewriter.site(self.name, [site.node]) as edit:
                self.pack(edit, site, results[site.path])
        drop_unused(program)
        return None

    def _quantize(self, program: Program, sites: Sequence[Site]) -> dict[str, QuantizedLinear]:
        if not self.show or self.progress is not None:
            return self.quantize(program, sites)
        with progress_bar(self.name) as progress:
            return replace(self, progress=progress).quantize(program, sites)

    def quantize(self, program: Program, sites: Sequence[Site]) -> dict[str, QuantizedLinear]:
        """Codes of the linears by path."""
        raise TypeError(f"{type(self).__name__} must define quantize(program, sites)")

    def pack(self, edit: Edit, site: Site, result: QuantizedLinear) -> None:
        """Put a linear's codes in its place."""
        (pack_experts if isinstance(site, ExpertSite) else pack_linear)(edit, site.node, result)

    def linear_options(self) -> Options:
        """The options of a linear that no override matches."""
        return Options(**{name: getattr(self, name) for name in Options.__dataclass_fields__})

    def _placement(self) -> tuple[str, Any]:
        """Where to evaluate, and the dtype of products: the model's own unless another was asked for."""
        if self.calibration is None:
            return "cpu", None
        asked = self.calibration.products
        return self.calibration.device, None if asked == "auto" else asked

    def _data(self) -> Calibration:
        if self.calibration is None or not self.calibration.batches:
            raise PassError(
                f"'{self.name}' needs calibration data",
                remedies=["QuantizeGptq(calibration=Calibration(batches))", "use quantize-rtn, which needs none"],
            )
        return self.calibration


@dataclass(frozen=True)
class QuantizeGptq(Quantize):
    """Quantize linears to integer codes with GPTQ, refitted scales and coordinate descent.

    Args:
        work: Folder for finished stages, so that an interrupted run can go on.
    """

    name = "quantize-gptq"

    work: str | None = None

    def quantize(self, program: Program, sites: Sequence[Site]) -> dict[str, QuantizedLinear]:
        """Stage by stage, each on what the quantized linears before it give."""
        return quantize(program, sites, self._data(), work=self.work, progress=self.progress)
