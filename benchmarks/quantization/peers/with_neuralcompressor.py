"""Quantize with Neural Compressor's GPTQ, in an environment of its own: MODEL IDS OUT BITS GROUP SYMMETRIC VARIANT.

`hybrid` orders inputs within groups and searches scales for the least squared error; `act` orders all by activations.
With `plain`, its defaults, only the cost is told.
"""

from __future__ import annotations

import contextlib
import sys

import torch
from cost import cost
from neural_compressor.torch.quantization import GPTQConfig, convert, prepare
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

ORDERS = {"hybrid": {"hybrid_order": True, "use_mse_search": True}, "act": {"act_order": True}, "plain": {}}


def main() -> None:
    """Quantize and keep the weights of the decoder's linears."""
    model_path, ids_path, out, bits, group, symmetric, variant = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    size = int(group) if int(group) > 0 else -1
    config = GPTQConfig(bits=int(bits), group_size=size, use_sym=symmetric == "1", **ORDERS[variant])
    config.set_local("lm_head", GPTQConfig(dtype="fp32"))
    with cost("neural-compressor"):
        prepared = prepare(model, config)
        with torch.no_grad():
            for row in load_file(ids_path)["ids"]:
                with contextlib.suppress(ValueError):  # it stops each forward pass at the first block that way
                    prepared(row[None])
        converted = convert(prepared)
    if variant == "plain":
        return
    packed = {name: module for name, module in converted.named_modules() if hasattr(module, "recover")}
    recovered = {name: module.recover() for name, module in packed.items() if ".layers." in name}
    save_file(
        {name: getattr(item, "weight", item).detach().float().contiguous() for name, item in recovered.items()}, out
    )


if __name__ == "__main__":
    main()
