"""Calibration: stream batches through a program, and quantize its linears as they are reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import Node

from graphwright.ir.errors import PassError
from graphwright.ir.program import Program
from graphwright.passes.quant.codes import QuantizedLinear
from graphwright.passes.quant.curvature import Tape
from graphwright.passes.quant.distributed import add_up, exchange, own_share, owner, rank, summed, world_size
from graphwright.passes.quant.experts import ExpertMoments, solve_experts
from graphwright.passes.quant.memory import return_freed
from graphwright.passes.quant.moments import Moments
from graphwright.passes.quant.products import multiplies_bfloat16
from graphwright.passes.quant.sites import ExpertSite, Site, Stage, stages_of
from graphwright.passes.quant.solver import solve_all
from graphwright.passes.quant.stream import Stream, Values
from graphwright.passes.quant.work import Work, run_key

Progress = Callable[[int, int, Sequence[str]], None]


@dataclass(frozen=True)
class Calibration:
    """The data that a program is calibrated with, and where and how it runs.

    Args:
        batches: Keyword arguments of the program per batch; `attention_mask` `[batch, sequence]` leaves out padding.
        device: Where to compute; weights come to it segment by segment.
        products: Dtype of matrix products in forward passes and moments, None for the values' own; by default
            bfloat16 for a float32 model on a CPU that has instructions for it.
    """

    batches: Sequence[dict[str, Any]]
    device: str = "cpu"
    products: torch.dtype | Literal["auto"] | None = "auto"

    def dtype_of_products(self, weight: Tensor) -> torch.dtype | None:
        """The dtype for a model with such weights."""
        if self.products != "auto":
            return self.products
        on_cpu = torch.device(self.device).type == "cpu" and weight.dtype is torch.float32
        return torch.bfloat16 if on_cpu and multiplies_bfloat16(self.device) else None

    def masks(self) -> list[Tensor | None]:
        """Boolean masks of the tokens that count, per batch."""
        masks = [batch.get("attention_mask") for batch in self.batches]
        return [mask.bool().to(self.device) if mask is not None and mask.dim() == 2 else None for mask in masks]


class Calibrator:
    """Two streams through a program, one as it is and one quantized so far, and the linears between them."""

    def __init__(self, program: Program, sites: Sequence[Site], calibration: Calibration) -> None:
        self.program, self.calibration, self.sites = program, calibration, list(sites)
        self.stages = stages_of(self.sites)
        state = (program.state[name] for name in program.tensors() if program.state[name].is_floating_point())
        self.products = calibration.dtype_of_products(next(state))
        leaves = [program.flatten(**batch) for batch in calibration.batches]
        self.residuals = {site.path: _kept(site) for stage in self.stages for site in stage.sites}
        kept = {node: stage.stop for stage in self.stages for site in stage.sites for node in self._read(site)}
        wanted = [stage.stop for stage in self.stages]
        self.stream = Stream(program, wanted, leaves, calibration.device, self.products, kept)
        self.float_stream: Stream | None = None
        self.masks = calibration.masks()
        self.curvatures = self._curvatures(leaves)

    def _curvatures(self, leaves: Sequence[Sequence[Any]]) -> dict[str, Tensor]:
        """By path, for the linears that want it; labels of a batch are the same on whatever process it is."""
        sites = [s for s in self.sites if s.options.curvature and not isinstance(s, ExpertSite)]
        if not sites:
            return {}
        seeds = [rank() + i * world_size() for i in range(len(leaves))]
        tape = Tape(self.program, sites, leaves, self.calibration.device, self.products, seeds)
        sums = tape.run(self.masks)
        return {path: summed(sums[path]) for path in sorted(sums)}

    def _read(self, site: Site) -> list[Node]:
        """What the moments of a site are made of."""
        nodes = [site.input, site.ends] if isinstance(site, ExpertSite) else [self.residuals[site.path]]
        return [node for node in nodes if node is not None]

    @torch.no_grad()
    def measure(self, stage: Stage) -> Moments | ExpertMoments:
        """Run all batches up to a stage and sum what its solver needs."""
        first = stage.sites[0]
        moments = self._of_experts(stage, first) if isinstance(first, ExpertSite) else self._of_linears(stage)
        add_up(moments)
        return moments

    def _of_experts(self, stage: Stage, site: ExpertSite) -> ExpertMoments:
        """Rows are sorted differently in the float model, so there is no float target."""
        moments = ExpertMoments(site.experts, self.products)
        for values, _ in zip(self._values(stage), self._floats(stage), strict=True):
            moments.add(values[site.input], values[site.ends])
        return moments

    def _of_linears(self, stage: Stage) -> Moments:
        moments = Moments(stage, self.products)
        wants_float = any(site.options.float_target for site in stage.sites)
        for values, floats, mask in zip(self._values(stage), self._floats(stage), self.masks, strict=True):
            x = values[stage.input]
            keep = mask if mask is not None and mask.shape == x.shape[:-1] else None
            return_freed()
            residuals = {} if floats is None else self._residuals(stage, values, floats)
            moments.add(x, keep, floats[stage.input] if floats is not None and wants_float else None, residuals)
        moments.complete()
        return moments

    def _residuals(self, stage: Stage, values: Values, floats: Values) -> dict[str, Tensor]:
        """By site, what the residual stream should have beyond what it has."""
        nodes = {site.path: self.residuals[site.path] for site in stage.sites if site.options.residual_target}
        return {path: floats[node] - values[node] for path, node in nodes.items() if node is not None}

    @torch.no_grad()
    def skip(self, stage: Stage) -> None:
        """Run all batches up to a stage whose result is known."""
        for _ in zip(self._values(stage), self._floats(stage), self.masks, strict=True):
            pass

    def _values(self, stage: Stage) -> Iterator[Values]:
        return self.stream.advance(stage.stop)

    def _floats(self, stage: Stage) -> Iterator[Values | None]:
        if self.float_stream is not None:
            yield from self.float_stream.advance(stage.stop, ahead=True)
        else:
            yield from [None] * len(self.masks)

    @torch.no_grad()
    def solve(self, stage: Stage, moments: Moments | ExpertMoments) -> dict[str, QuantizedLinear]:
        """Quantize the linears of a stage, which uses the moments up; each process takes its share of them."""
        shapes = {site: self.stream.weight(site.node).shape for site in stage.sites}
        own = [site for i, site in enumerate(stage.sites) if owner(i) == rank()]
        weights = [self.stream.weight(site.node) for site in own]
        curvatures = [self.curvatures.get(site.path) for site in own]
        solved = dict(zip(own, _solved(own, weights, moments, curvatures), strict=True))
        found = {s.path: exchange(s, i, solved.get(s), shapes[s]) for i, s in enumerate(stage.sites)}
        return {path: item.to("cpu") for path, item in found.items()}

    def use(self, results: dict[str, QuantizedLinear]) -> None:
        """Go on with the quantized weights; the float stream goes on with the model's own."""
        if self.float_stream is None and any(site.options.float_target for site in self.sites):
            self.float_stream = self.stream.fork()
        for site in self.sites:
            if site.path in results:
                self.stream.weights[site.node] = results[site.path]


def _solved(
    sites: Sequence[Site],
    weights: Sequence[Tensor],
    moments: Moments | ExpertMoments,
    curvatures: Sequence[Tensor | None],
) -> list[QuantizedLinear]:
    if isinstance(moments, ExpertMoments):
        return [solve_experts(weight, moments, site.options) for site, weight in zip(sites, weights, strict=True)]
    corrections = [moments.correction(site.path, weight) for site, weight in zip(sites, weights, strict=True)]
    given = dict(zip(sites, zip(weights, corrections, curvatures, strict=True), strict=True))
    hessian, found = moments.take(), dict[Site, QuantizedLinear]()
    for options in dict.fromkeys(site.options for site in sites):
        chosen = [site for site in sites if site.options == options]
        own_weights, own_corrections, own_curvatures = zip(*(given[site] for site in chosen), strict=True)
        results = solve_all(own_weights, hessian, options, own_corrections, own_curvatures)
        found.update(zip(chosen, results, strict=True))
    return [found[site] for site in sites]


def _kept(site: Site) -> Node | None:
    """The residual of a site, if it is known before the site's input."""
    residual = site.residual
    return residual if residual is not None and residual < site.input else None


def quantize(
    program: Program,
    sites: Sequence[Site],
    calibration: Calibration,
    *,
    work: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, QuantizedLinear]:
    """Quantize linears in graph order, each calibrated on what the quantized linears before it give.

    Args:
        program: A canonical program.
        sites: The linears, from `find_sites`.
        calibration: The data.
        work: Folder for finished stages: a run that was interrupted goes on after them.
        progress: Called with (stages done, all stages, paths of the next stage).

    Under `torchrun`, once a process group is there, the batches are spread over its processes.

    Returns:
        Module path -> codes, on the CPU; the same on every process.

    Raises:
        PassError: There is nothing to quantize, or inputs of a linear are not finite.
        FileFormatError: A file of the work folder is damaged.
    """
    if not sites:
        raise PassError("there is no linear to quantize", remedies=["see the overrides, and `heads`"])
    run = Calibrator(program, sites, replace(calibration, batches=own_share(calibration.batches)))
    weights = [run.stream.weight(site.node) for site in sites] if work is not None else []
    files = Work(Path(work), run_key(sites, calibration.batches, weights)) if work is not None else None
    results: dict[str, QuantizedLinear] = {}
    for i, stage in enumerate(run.stages):
        if progress is not None:
            progress(i, len(run.stages), [site.path for site in stage.sites])
        solved = files.load(i) if files is not None else None
        return_freed()
        if solved is None:
            moments = run.measure(stage)
            return_freed()
            solved = run.solve(stage, moments)
            del moments
            if files is not None and rank() == 0:
                files.save(i, solved)
        else:
            run.skip(stage)
        run.use(solved)
        results |= solved
    return results
