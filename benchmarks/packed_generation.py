"""Milliseconds per token of a decoder with 4-bit weights, beside itself in bfloat16.

    python -m benchmarks.packed_generation llama-8b
    python -m benchmarks.packed_generation gpt2 --device cpu    # in turns, and beside transformers in float32

Codes are random: only their number matters. See `benchmarks.generation` for what a token's time is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.generation import PROMPT, SHAPES, generation, make, measure
from graphwright.frontends.gptq.module import PackedLinear
from graphwright.ir.packed import PackedWeight

FORMS = ("plain", "linears", "all")  # "all" packs the output projection too
BITS, GROUP = 4, 128


def pack_randomly(linear: nn.Module) -> PackedLinear:
    """A packed linear of the same size, with random codes and weights of about the same magnitude."""
    outputs, inputs = linear.weight.shape if isinstance(linear, nn.Linear) else linear.weight.t().shape
    device = linear.weight.device
    codes = torch.randint(0, 256, (outputs, inputs * BITS // 8), dtype=torch.uint8, device=device)
    scales = torch.full((outputs, inputs // GROUP), 0.02 / 8, dtype=torch.float16, device=device)
    packed = PackedWeight(codes, scales, None, None, BITS, GROUP, inputs)
    return PackedLinear(packed, None if linear.bias is None else linear.bias.detach())


def pack_model(model: Any, heads: bool) -> None:
    """Replace the linears of a model, with `heads` also its output projection."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    for path, module in list(model.named_modules()):
        if isinstance(module, (nn.Linear, Conv1D)) and (heads or module is not head):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, pack_randomly(module))


def model_of(shape: str, device: str, form: str) -> Any:
    """A model whose weights have a form."""
    model = make(shape, device)
    if form != "plain":
        pack_model(model, heads=form == "all")
    return model


def report(shape: str, forms: Sequence[str], device: str, rounds: int) -> None:
    """Print the time of each form, one model at a time on a GPU; on a CPU they take turns."""
    ours = "ours" if device == "cuda" else "ours-bfloat16"
    functions: dict[str, Callable[[int], Any]] = {}
    for form in forms:
        model = model_of(shape, device, form)
        ids = torch.randint(3, model.config.vocab_size, (1, PROMPT), device=device)
        if device == "cpu" and form == "plain":
            functions["transformers"] = generation(model, "hf", ids)
        functions[form] = generation(model, ours, ids)
        if device == "cuda":
            print(f"{shape} {form}: {measure(functions, device, rounds)[form][0]:.3f} ms/token", flush=True)
            functions.clear()
            del model
    for form, (time, _) in measure(functions, device, rounds).items():
        print(f"{shape} {form}: {time:.3f} ms/token")


def main() -> None:
    """Print the time of each form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)
    with torch.no_grad():
        report(given.shape, given.forms, given.device, given.rounds)


if __name__ == "__main__":
    main()
