"""What is measured: settings, libraries with their variants, draws of calibration text; and how one run is done."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.quantization.environments import python_of
from graphwright.ir.program import Program
from graphwright.passes.quant.calibrate import Calibration, quantize
from graphwright.passes.quant.options import Options
from graphwright.passes.quant.rtn import QuantizeRtn
from graphwright.passes.quant.sites import find_sites

SAMPLES, LENGTH = 64, 256
SETTINGS = ((4, 128, True), (4, 128, False), (3, 128, True), (3, 128, False), (4, 0, True), (4, 0, False))
"""Bits, group size (0 for one scale per output), symmetric."""
OURS = ("graphwright", "graphwright-curvature")
VARIANTS = {
    "llmcompressor": ("imatrix", "damped"),
    "gptqmodel": ("mse", "act", "gptaq", "foem"),
    "neuralcompressor": ("hybrid", "act"),
    "autoround": ("200",),
}
"""Options of the other libraries, see the scripts in `peers`."""


@dataclass(frozen=True)
class Run:
    """One library with some options on one draw of calibration rows."""

    bits: int
    group: int
    symmetric: bool
    library: str
    variant: str
    seed: int

    def options(self) -> Options:
        """Our options for the setting."""
        curvature = self.library == "graphwright-curvature"
        return Options(bits=self.bits, group_size=self.group, symmetric=self.symmetric, curvature=curvature)


def runs(libraries: Sequence[str], seeds: int) -> Iterator[Run]:
    """All runs, quick ones first; AutoRound, a hundred times slower, gets one draw."""
    yield from (Run(*setting, "rounding", "", 0) for setting in SETTINGS)
    for library in libraries:
        for variant in VARIANTS.get(library, ("",)):
            for seed in range(1 if library == "autoround" else seeds):
                yield from (Run(*setting, library, variant, seed) for setting in SETTINGS)


def draw(tokens: Tensor, seed: int) -> Tensor:
    """Calibration rows at random places."""
    places = torch.randint(0, len(tokens) - LENGTH, (SAMPLES,), generator=torch.Generator().manual_seed(seed))
    return torch.stack([tokens[i : i + LENGTH] for i in places])


def with_peer(run: Run, folder: Path, model: Path, ids: Tensor) -> dict[str, Tensor]:
    """Weights by path as another library quantizes them, in its environment below `folder`."""
    script = Path(__file__).parent / "peers" / f"with_{run.library}.py"
    with tempfile.TemporaryDirectory() as scratch:
        save_file({"ids": ids}, f"{scratch}/ids.safetensors")
        options = [str(int(value)) for value in (run.bits, run.group, run.symmetric)]
        files = [model.resolve(), f"{scratch}/ids.safetensors", f"{scratch}/out"]
        command = [str(python_of(run.library, folder)), str(script), *map(str, files), *options, run.variant]
        environment = {**os.environ, "GPTQMODEL_CPU_WORKERS": "2", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=scratch, check=False)
        if done.returncode:
            raise RuntimeError(f"{run}: {done.stderr[-2000:]}")
        return load_file(f"{scratch}/out")


def ours(program: Program, ids: Tensor, options: Options) -> dict[str, Tensor]:
    """Weights by path as quantize-gptq chooses them."""
    batches = [{"input_ids": part} for part in ids.split(8)]
    results = quantize(program, find_sites(program, options), Calibration(batches))
    return {path: item.dequantize() for path, item in results.items()}


def rounded(program: Program, options: Options) -> dict[str, Tensor]:
    """Weights by path as quantize-rtn chooses them."""
    pass_ = QuantizeRtn(bits=options.bits, group_size=options.group_size, symmetric=options.symmetric)
    return {k: v.dequantize() for k, v in pass_.quantize(program, find_sites(program, options)).items()}
