"""Quality of quantized weights beside other libraries: `python -m benchmarks.quantization MODEL CALIBRATION HELDOUT`.

MODEL is a folder of a decoder; the others are safetensors files with one tensor `tokens`. Every library gets the same
64 x 256 tokens; what counts is the divergence of the next-token distribution from the float model's on held-out text.
Runs that are in the file of results already are not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.quantization.runs import OURS, VARIANTS, Run, draw, ours, rounded, runs, with_peer
from benchmarks.quantization.scoring import Scorer
from benchmarks.quantization.speed import program_of
from benchmarks.quantization.table import table
from graphwright.ir.program import Program


def load_results(path: Path) -> dict[Run, float]:
    """Divergences by run."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {Run(**{field.name: line[field.name] for field in fields(Run)}): line["kl"] for line in lines}


def weights(run: Run, program: Program, given: argparse.Namespace, tokens: Tensor) -> dict[str, Tensor]:
    """Weights by path as the run's library chooses them."""
    if run.library == "rounding":
        return rounded(program, run.options())
    if run.library in OURS:
        return ours(program, draw(tokens, run.seed), run.options())
    return with_peer(run, given.peers, given.model, draw(tokens, run.seed))


def measure(given: argparse.Namespace) -> Iterator[dict]:
    """Do the runs that have no result yet."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32, attn_implementation="eager").eval()
    program = program_of(model, "cpu")
    tokens = load_file(given.calibration)["tokens"].long()
    scorer = Scorer(model, load_file(given.heldout)["tokens"].long())
    print(f"float perplexity {scorer.perplexity:.2f}", flush=True)
    done = load_results(given.results)
    for run in runs(given.libraries, given.seeds):
        if run not in done:
            kl, perplexity = scorer.score(weights(run, program, given, tokens))
            yield {**asdict(run), "kl": kl, "perplexity": perplexity}


def main() -> None:
    """Measure, line by line into the file of results, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "calibration", "heldout"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--peers", type=Path, help="folder for the environments of other libraries; none without it")
    parser.add_argument("--libraries", nargs="*", choices=[*OURS, *VARIANTS], default=None)
    parser.add_argument("--seeds", type=int, default=3, help="draws of calibration rows")
    parser.add_argument("--results", type=Path, default=Path("results.jsonl"))
    given = parser.parse_args()
    if given.libraries is None:
        given.libraries = [*OURS, *(VARIANTS if given.peers else ())]
    for result in measure(given):
        print(result, flush=True)
        with given.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
    print(table(load_results(given.results).items()))


if __name__ == "__main__":
    main()
