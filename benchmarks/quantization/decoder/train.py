"""Train the decoder: `python -m benchmarks.quantization.decoder.train FOLDER OUT --minutes 1.5 --device cuda`.

FOLDER is what `corpus` wrote. The learning rate falls to zero by the clock, so that training fits a given time. The
weights are kept in bfloat16 while the optimizer works in float32.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

WARM_UP = 0.03  # of the time


def config() -> LlamaConfig:
    """9.2 M parameters."""
    return LlamaConfig(
        vocab_size=4096, hidden_size=384, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
        pad_token_id=0,
    )  # fmt: skip


def rate(part: float, highest: float) -> float:
    """The learning rate after a part of the time: up, then down along a cosine."""
    return highest * min(part / WARM_UP, 0.5 * (1 + math.cos(math.pi * min(part, 1.0))))


def draw(tokens: Tensor, rows: int, length: int) -> Tensor:
    """Rows of `length + 1` tokens at random places."""
    places = torch.randint(0, len(tokens) - length, (rows, 1), device=tokens.device)
    return tokens[places + torch.arange(length + 1, device=tokens.device)].long()


def loss_of(model: torch.nn.Module, rows: Tensor) -> Tensor:
    """Mean negative log-likelihood of each row's next tokens, in nats."""
    with torch.autocast(rows.device.type, torch.bfloat16):
        logits = model(rows[:, :-1], use_cache=False).logits
    return cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


def optimizer_of(model: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW that decays matrices only."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)


def train(model: torch.nn.Module, tokens: Tensor, seconds: float, rows: int, length: int, highest: float) -> int:
    """Train for some time; the number of steps done."""
    optimizer, start, step = optimizer_of(model), time.monotonic(), 0
    while (part := (time.monotonic() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate(part, highest)
        loss = loss_of(model, draw(tokens, rows, length))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 20 == 0:  # waits for the device, so that the clock counts steps that are done
            print(f"{part:6.1%} step {step}, loss {loss.item():.3f}", flush=True)
        step += 1
    return step


@torch.no_grad()
def perplexity(model: torch.nn.Module, tokens: Tensor, length: int) -> float:
    """On the first 128 rows of a text."""
    rows = tokens[: 128 * (length + 1)].view(-1, length + 1).long()
    return math.exp(sum(loss_of(model, part).item() for part in rows.split(16)) / len(rows.split(16)))


def main() -> None:
    """Train, score, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("folder", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rate", type=float, default=3e-3)
    given = parser.parse_args()
    torch.manual_seed(0)
    model = LlamaForCausalLM(config()).to(given.device)
    tokens = {n: load_file(given.folder / f"{n}.safetensors", given.device)["tokens"] for n in ("training", "heldout")}
    steps = train(model, tokens["training"], given.minutes * 60, given.rows, given.length, given.rate)
    seen = steps * given.rows * given.length / 1e6
    found = perplexity(model.eval(), tokens["heldout"], 256)
    print(f"{steps} steps, {seen:.1f} M tokens, perplexity on held-out text {found:.2f}")
    model.to(torch.bfloat16).cpu().save_pretrained(given.out)


if __name__ == "__main__":
    main()
