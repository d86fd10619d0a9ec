"""Milliseconds per token of a decoder with 4-bit weights, beside itself in bfloat16.

    python -m benchmarks.packed_generation llama-8b

Codes are random: only their number matters. See `benchmarks.generation` for what a token's time is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.generation import PROMPT, SHAPES, generation, make, measure
from graphwright.frontends.gptq.module import PackedLinear
from graphwright.ir.packed import PackedWeight

FORMS = ("plain", "linears", "all")  # "all" packs the output projection too
BITS, GROUP = 4, 128


def pack_randomly(linear: nn.Linear) -> PackedLinear:
    """A packed linear of the same size, with random codes and weights of about the same magnitude."""
    outputs, inputs = linear.weight.shape
    device = linear.weight.device
    codes = torch.randint(0, 256, (outputs, inputs * BITS // 8), dtype=torch.uint8, device=device)
    scales = torch.full((outputs, inputs // GROUP), 0.02 / 8, dtype=torch.float16, device=device)
    packed = PackedWeight(codes, scales, None, None, BITS, GROUP, inputs)
    return PackedLinear(packed, None if linear.bias is None else linear.bias.detach())


def pack_model(model: Any, heads: bool) -> None:
    """Replace the linears of a model, with `heads` also its output projection."""
    head = model.get_output_embeddings()
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and (heads or module is not head):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, pack_randomly(module))


def per_token(model: Any, device: str, rounds: int) -> float:
    """Milliseconds per token."""
    ids = torch.randint(3, model.config.vocab_size, (1, PROMPT), device=device)
    functions: dict[str, Callable[[int], Any]] = {"ours": generation(model, "ours", ids)}
    with torch.no_grad():
        return measure(functions, device, rounds)["ours"][0]


def main() -> None:
    """Print the time of each form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    given = parser.parse_args()
    for form in given.forms:
        model = make(given.shape, given.device)
        if form != "plain":
            pack_model(model, heads=form == "all")
        print(f"{given.shape} {form}: {per_token(model, given.device, given.rounds):.3f} ms/token", flush=True)
        del model


if __name__ == "__main__":
    main()
