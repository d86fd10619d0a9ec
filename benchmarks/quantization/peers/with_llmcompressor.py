"""Quantize with llm-compressor, in an environment of its own: MODEL IDS OUT BITS GROUP SYMMETRIC VARIANT.

`imatrix` has static activation order, and scales searched with weights from activations; `damped` has a damping of 0.1
as well, which its maintainers advise. With `plain`, its defaults, only the cost is told.
"""

from __future__ import annotations

import sys

import torch
from cost import cost
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def main() -> None:
    """Quantize and keep the weights of the decoder's linears."""
    model_path, ids_path, out, bits, group, symmetric, variant = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    rows = load_file(ids_path)["ids"]
    data = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in rows]
    size = {"strategy": "group", "group_size": int(group)} if int(group) > 0 else {"strategy": "channel"}
    weights = {
        "num_bits": int(bits),
        "type": "int",
        "symmetric": symmetric == "1",
        "observer": "minmax" if variant == "plain" else "imatrix_mse",
        **size,
    }
    groups = {"all": {"targets": ["Linear"], "weights": weights}}
    damping = 0.1 if variant == "damped" else 0.01
    recipe = GPTQModifier(ignore=["lm_head"], config_groups=groups, dampening_frac=damping)
    with cost("llm-compressor"):
        oneshot(
            model=model, dataset=Dataset.from_list(data), recipe=recipe,
            max_seq_length=rows.shape[1], num_calibration_samples=len(rows), batch_size=8, pipeline="sequential",
            tokenizer=model_path,
        )  # fmt: skip
    if variant == "plain":
        return
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    save_file({n: m.weight.data.float().contiguous() for n, m in linears.items() if ".layers." in n}, out)


if __name__ == "__main__":
    main()
