"""Milliseconds per generated token through `generate()`, beside peers and the limit of memory.

    python -m benchmarks.generation llama-1b --device cuda
    python -m benchmarks.generation gpt2 --device cpu --peers hf ours
    python -m benchmarks.generation llama-1b --prompts      # milliseconds to the first token

A token's time is the slope between a short and a long greedy generation, so the prompt does not count. The limit is
the time to read every weight of the step once: on an H100 at 3.0 TB/s, on a CPU at the speed of summing a large tensor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

SHAPES: dict[str, dict[str, Any]] = {
    "llama-1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
                 "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
    "llama-8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                 "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False},
    "llama-tiny": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
                   "num_key_value_heads": 2, "vocab_size": 1000, "tie_word_embeddings": True},
    "gpt2": {},
    "gpt2-tiny": {"n_embd": 256, "n_layer": 4, "n_head": 4, "vocab_size": 2000},
}  # fmt: skip
PEERS = ("hf", "hf-static-compile", "ours", "ours-bfloat16")
BANDWIDTH = 3.0e12
PROMPT, SHORT, LONG = 32, 16, 144


def make(name: str, device: str) -> Any:
    """A model of a shape with random weights, in bfloat16 on a GPU and float32 on a CPU."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    config, cls = (GPT2Config, GPT2LMHeadModel) if name.startswith("gpt2") else (LlamaConfig, LlamaForCausalLM)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = cls(config(**SHAPES[name], max_position_embeddings=1024)).eval()
    finally:
        torch.set_default_dtype(previous)
    model.generation_config.eos_token_id = None
    return model


def step_bytes(model: Any) -> int:
    """Bytes of the weights that one token reads; an embedding that is not the head counts for nothing."""
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    return total if head is embedding else total - embedding.numel() * embedding.element_size()


def limit_ms(model: Any, device: str) -> float:
    """Milliseconds to read the weights once."""
    if device == "cuda":
        return step_bytes(model) / BANDWIDTH * 1e3
    block = torch.ones(64 << 20)
    seconds = min(timed(block.sum, device)[0] for _ in range(5))
    return step_bytes(model) / (block.numel() * 4 / seconds) * 1e3


def timed(function: Callable[[], Any], device: str) -> tuple[float, float]:
    """Seconds by the wall clock (on a CPU: of the process), and seconds of the host's processor."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    clock = time.perf_counter if device == "cuda" else time.process_time
    wall, host = clock(), time.process_time()
    function()
    wait()
    return clock() - wall, time.process_time() - host


def generation(model: Any, peer: str, ids: torch.Tensor) -> Callable[[int], Any]:
    """A function of the number of new tokens."""
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}
    if peer.startswith("ours"):
        from graphwright import optimize

        model = optimize(model, target="eager{dtype=bfloat16}") if peer == "ours-bfloat16" else optimize(model)
    elif peer == "hf-static-compile":
        options |= {"cache_implementation": "static", "max_cache_len": 256}
    return lambda count: model.generate(ids, max_new_tokens=count, min_new_tokens=None, **options)


def measure(functions: dict[str, Callable[[int], Any]], device: str, rounds: int) -> dict[str, tuple[float, float]]:
    """(milliseconds, host milliseconds) of each token; medians of rounds in which the peers take turns."""
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for name, function in functions.items():
        start = time.perf_counter()
        function(LONG)
        function(SHORT)
        print(f"  {name}: first calls {time.perf_counter() - start:.1f} s", flush=True)
    for _ in range(rounds):
        for name, function in functions.items():
            short, long = (timed(lambda n=n, f=function: f(n), device) for n in (SHORT, LONG))
            samples[name].append(tuple((b - a) / (LONG - SHORT) * 1e3 for a, b in zip(short, long, strict=True)))
    return {
        name: tuple(statistics.median(column) for column in zip(*rows, strict=True)) for name, rows in samples.items()
    }


def report(name: str, device: str, peers: Sequence[str], rounds: int, batch: int) -> None:
    """Measure and print one shape."""
    model = make(name, device)
    ids = torch.randint(3, model.config.vocab_size, (batch, PROMPT), device=device)
    functions = {peer: generation(model, peer, ids) for peer in peers}
    limit = limit_ms(model, device)
    with torch.no_grad():
        rows = measure(functions, device, rounds)
    print(f"{name}, batch {batch}, {device}: limit {limit:.2f} ms/token ({step_bytes(model) / 1e9:.2f} GB)")
    for peer, (wall, host) in rows.items():
        print(f"  {peer:20} {wall:7.3f} ms/token  {limit / wall:6.1%} of the limit  host {host:.3f} ms/token")


def report_prompts(name: str, device: str, peers: Sequence[str], rounds: int, batch: int) -> None:
    """Measure the time to the first token of prompts of ever other lengths, and print it.

    Every length is new to all peers, but for those of the first calls, which are not measured.
    """
    model = make(name, device)
    functions = {peer: prompt(model, peer) for peer in peers}
    random = torch.Generator().manual_seed(0)
    lengths = torch.randperm(255, generator=random)[: 8 * rounds] + 1
    for peer, function in functions.items():
        start = time.perf_counter()
        for length in (64, 128, 192, 256) * 3:
            function(torch.randint(3, model.config.vocab_size, (batch, length), device=device))
        print(f"  {peer}: first calls {time.perf_counter() - start:.1f} s", flush=True)
    samples: dict[str, list[float]] = {peer: [] for peer in peers}
    for length in lengths.tolist():
        ids = torch.randint(3, model.config.vocab_size, (batch, max(length, 2)), device=device)
        for peer, function in functions.items():
            samples[peer].append(timed(lambda f=function, given=ids: f(given), device)[0] * 1e3)
    print(f"{name}, batch {batch}, {device}: prompts of 2 to 255 tokens")
    for peer, found in samples.items():
        print(f"  {peer:20} {statistics.median(found):7.2f} ms to the first token, at most {max(found):.2f}")


def prompt(model: Any, peer: str) -> Callable[[torch.Tensor], Any]:
    """A function of the prompt that generates one token."""
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": 1}
    if peer == "ours":
        from graphwright import optimize

        model = optimize(model)
    elif peer == "hf-static-compile":
        options |= {"cache_implementation": "static", "max_cache_len": 512}
    return lambda ids: model.generate(ids, **options)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=sorted(SHAPES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS[:3]))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompts", action="store_true", help="measure the first token instead of the later ones")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    measured = report_prompts if options.prompts else report
    with torch.no_grad():
        measured(options.shape, options.device, options.peers, options.rounds, options.batch)


if __name__ == "__main__":
    main()
