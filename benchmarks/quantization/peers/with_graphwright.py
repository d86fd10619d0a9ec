"""Quantize with graphwright: MODEL IDS ... [fast]. Tells the cost, capture included, as the scripts of the others do.

`fast` is GPTQ alone, as the others run it, with products in bfloat16: no second stream of the float model, and no
rounds of refitted scales and coordinate descent.
"""

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
    fast = sys.argv[-1] == "fast"
    options = Options(rounds=0, float_target=False, residual_target=False) if fast else Options()
    with cost("graphwright, fast" if fast else "graphwright"):
        program = program_of(model, "cpu")
        calibration = Calibration(batches)
        quantize(program, find_sites(program, options), calibration)


if __name__ == "__main__":
    main()
