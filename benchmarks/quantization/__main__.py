"""Quality of quantized weights beside other libraries: `python -m benchmarks.quantization MODEL CALIBRATION HELDOUT`.

MODEL is a folder of a decoder; the others are safetensors files with one tensor `tokens`. Every library gets the same
64 x 256 tokens; what counts is the divergence of the next-token distribution from the float model's on held-out text.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import graphwright
from benchmarks.quantization.environments import PACKAGES, python_of
from benchmarks.quantization.scoring import Scorer
from benchmarks.quantization.speed import program_of
from graphwright.ir.program import Program
from graphwright.passes.quant.calibrate import Calibration, quantize
from graphwright.passes.quant.options import Options
from graphwright.passes.quant.rtn import QuantizeRtn
from graphwright.passes.quant.sites import find_sites

SETTINGS = [(4, 128, True), (4, 128, False), (3, 128, True), (3, 128, False), (4, 0, True), (4, 0, False)]
SAMPLES, LENGTH = 64, 256


def draw(tokens: torch.Tensor, seed: int) -> torch.Tensor:
    """Calibration rows at random places."""
    places = torch.randint(0, len(tokens) - LENGTH, (SAMPLES,), generator=torch.Generator().manual_seed(seed))
    return torch.stack([tokens[i : i + LENGTH] for i in places])


def with_peer(library: str, folder: Path, model: Path, ids: torch.Tensor, setting: tuple[int, int, bool]) -> dict:
    """Weights by path as another library quantizes them."""
    script = Path(__file__).parent / "peers" / f"with_{library}.py"
    with tempfile.TemporaryDirectory() as scratch:
        save_file({"ids": ids}, f"{scratch}/ids.safetensors")
        options = [str(int(value)) for value in setting]
        command = [python_of(library, folder), script, model, f"{scratch}/ids.safetensors", f"{scratch}/out", *options]
        environment = {**os.environ, "GPTQMODEL_CPU_WORKERS": "2", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        subprocess.run(command, check=True, env=environment, capture_output=True)
        return load_file(f"{scratch}/out")


def ours(program: Program, ids: torch.Tensor, options: Options) -> dict[str, torch.Tensor]:
    """Weights by path as quantize-gptq chooses them."""
    batches = [{"input_ids": part} for part in ids.split(8)]
    results = quantize(program, find_sites(program, options), Calibration(batches))
    return {path: item.dequantize() for path, item in results.items()}


def rounded(program: Program, options: Options) -> dict[str, torch.Tensor]:
    """Weights by path as quantize-rtn chooses them."""
    pass_ = QuantizeRtn(bits=options.bits, group_size=options.group_size, symmetric=options.symmetric)
    return {k: v.dequantize() for k, v in pass_.quantize(program, find_sites(program, options)).items()}


def main() -> None:
    """Print a table in Markdown, one line per setting and library as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "calibration", "heldout"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--peers", type=Path, help="folder for the environments of other libraries; none without it")
    parser.add_argument("--seeds", type=int, default=3, help="calibration draws for ours, others get the first")
    given = parser.parse_args()
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32, attn_implementation="eager").eval()
    program = program_of(model, "cpu")
    tokens = load_file(given.calibration)["tokens"].long()
    scorer = Scorer(model, load_file(given.heldout)["tokens"].long())
    print(f"float perplexity {scorer.perplexity:.3f}, graphwright {graphwright.__version__}")
    print("| bits | group | symmetric | library | KL | perplexity |\n|---|---|---|---|---|---|")
    for setting in SETTINGS:
        label = " | ".join(map(str, setting))
        options = Options(bits=setting[0], group_size=setting[1], symmetric=setting[2])
        print(f"| {label} | rounding | {scorer.line(rounded(program, options))} |", flush=True)
        for library in PACKAGES if given.peers else ():
            weights = with_peer(library, given.peers, given.model, draw(tokens, 0), setting)
            print(f"| {label} | {library} | {scorer.line(weights)} |", flush=True)
        found = [scorer.score(ours(program, draw(tokens, seed), options)) for seed in range(given.seeds)]
        kl = [item[0] for item in found]
        text = f"{statistics.mean(kl):.5f} ({min(kl):.5f} to {max(kl):.5f}) | {found[0][1]:.3f}"
        print(f"| {label} | graphwright | {text} |", flush=True)


if __name__ == "__main__":
    main()
