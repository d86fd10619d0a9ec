"""Quantize with AutoRound, in an environment of its own: MODEL IDS OUT BITS GROUP SYMMETRIC VARIANT.

200 steps of signed gradient descent, its default. With `plain`, only the cost is told.
"""

from __future__ import annotations

import sys

import torch
from auto_round import AutoRound
from cost import cost
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Quantize and keep the weights of the decoder's linears."""
    model_path, ids_path, out, bits, group, symmetric, variant = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    rows = load_file(ids_path)["ids"]
    data = [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in rows]
    with cost("auto-round"):
        solver = AutoRound(
            model, AutoTokenizer.from_pretrained(model_path), bits=int(bits),
            group_size=int(group) if int(group) > 0 else -1, sym=symmetric == "1", iters=200, seqlen=rows.shape[1],
            nsamples=len(rows), dataset=data, device_map="cpu", amp=False, enable_torch_compile=False,
        )  # fmt: skip
        done = solver.quantize()
    if variant == "plain":
        return
    quantized = done[0] if isinstance(done, tuple) else done
    linears = {name: module for name, module in quantized.named_modules() if name.endswith("_proj")}
    save_file({n: m.weight.data.float().contiguous() for n, m in linears.items() if ".layers." in n}, out)


if __name__ == "__main__":
    main()
