"""Quantize with graphwright: MODEL IDS. Tells the cost of capturing and quantizing, as the scripts of the others do."""

from __future__ import annotations

import sys

import torch
from cost import cost
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from benchmarks.quantization.speed import program_of
from graphwright.passes.quant.calibrate import Calibration, quantize
from graphwright.passes.quant.options import Options
from graphwright.passes.quant.sites import find_sites


def main() -> None:
    """Quantize and tell the cost."""
    model_path, ids_path = sys.argv[1:3]
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32, attn_implementation="eager").eval()
    batches = [{"input_ids": part} for part in load_file(ids_path)["ids"].split(8)]
    with cost("graphwright"):
        program = program_of(model, "cpu")
        quantize(program, find_sites(program, Options()), Calibration(batches))


if __name__ == "__main__":
    main()
