"""Time and memory of quantizing a random Llama: `python -m benchmarks.quantization.speed --device cuda --layers 16`."""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

import graphwright
from graphwright.ir.program import Program
from graphwright.passes.quant.calibrate import Calibration, quantize
from graphwright.passes.quant.options import Options
from graphwright.passes.quant.sites import find_sites

VOCABULARY = 4096


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama, and of the calibration data."""

    hidden: int = 1024
    inner: int = 2816
    layers: int = 4
    heads: int = 16
    kv_heads: int = 8
    samples: int = 64
    length: int = 256
    batch: int = 8


def random_llama(shape: Shape, device: str, dtype: torch.dtype) -> torch.nn.Module:
    """A Llama with random weights, made on the device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=shape.hidden, intermediate_size=shape.inner, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, max_position_embeddings=4096,
        attn_implementation="eager", bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def program_of(model: torch.nn.Module, device: str) -> Program:
    """The canonical program of a decoder."""
    program = graphwright.capture(model, {"input_ids": torch.zeros(2, 16, dtype=torch.long, device=device)})
    return graphwright.Pipeline("canonicalize,fuse-attention").run(program, validate=False, in_place=True).program


def measure(shape: Shape, device: str, products: torch.dtype | Literal["auto"], options: Options) -> dict[str, float]:
    """Quantize once; seconds of capture and of quantizing, CPU seconds, and extra peak memory in MiB."""
    model = random_llama(shape, device, torch.bfloat16 if device == "cuda" else torch.float32)
    start = time.perf_counter()
    program = program_of(model, device)
    captured = time.perf_counter()
    ids = torch.randint(0, VOCABULARY, (shape.samples, shape.length), device=device)
    calibration = Calibration([{"input_ids": part} for part in ids.split(shape.batch)], device, products)
    before, cpu = _peak(device), time.process_time()
    begin = time.perf_counter()
    results = quantize(program, find_sites(program, options), calibration, progress=_Printer(device))
    seconds = time.perf_counter() - begin
    errors = torch.tensor([(item.error, item.rtn_error) for item in results.values()]).square().mean(0).sqrt()
    return {
        "parameters": sum(item.codes.numel() for item in results.values()),
        "capture_s": captured - start,
        "quantize_s": seconds,
        "cpu_s": time.process_time() - cpu,
        "extra_mib": _peak(device) - before,
        "error": float(errors[0]),
        "rtn_error": float(errors[1]),
    }


class _Printer:
    """Prints the time of each stage: wall, and that of the process."""

    def __init__(self, device: str) -> None:
        self.device, self.last, self.cpu = device, time.perf_counter(), time.process_time()

    def __call__(self, done: int, stages: int, paths: Sequence[str]) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        now, cpu = time.perf_counter(), time.process_time()
        print(f"{done}/{stages} {paths[0]}  {now - self.last:.2f} s, CPU {cpu - self.cpu:.2f} s", flush=True)
        self.last, self.cpu = now, cpu


def _peak(device: str) -> float:
    """Highest memory use so far, MiB: of the process, or of the GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and print one line of measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in vars(Shape()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--products", choices=["float32", "bfloat16", "auto"], default="auto")
    parser.add_argument("--threads", type=int, default=None)
    given = vars(parser.parse_args(arguments))
    device, products, threads = (given.pop(name) for name in ("device", "products", "threads"))
    if threads:
        torch.set_num_threads(threads)
    found = measure(Shape(**given), device, getattr(torch, products, "auto"), Options())
    print({name: round(value, 4) for name, value in found.items()})


if __name__ == "__main__":
    main()
