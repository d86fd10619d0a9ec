"""Decoders with caches of fixed size, and `generate` on buckets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

t = pytest.importorskip("transformers")

import graphwright as gw  # noqa: E402

ROWS, PROMPT, STEPS, CAPACITY = 2, 6, 10, 24


def llama() -> Any:
    torch.manual_seed(0)
    config = t.LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
        vocab_size=50, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = t.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def prompt() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and a mask with padding on the left in one row."""
    mask = torch.ones(ROWS, PROMPT, dtype=torch.long)
    mask[1, :2] = 0
    return torch.randint(3, 50, (ROWS, PROMPT), generator=torch.Generator().manual_seed(1)), mask


def expected(model: Any) -> torch.Tensor:
    ids, mask = prompt()
    options = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(ids, attention_mask=mask, **options)


def step(model: Any, tokens: int) -> Any:
    """The model at a number of tokens per call, on a cache of fixed size."""
    cache = t.StaticCache(config=model.config, max_cache_len=CAPACITY)
    with torch.no_grad():
        model(torch.full((ROWS, 1), 3), past_key_values=cache)
    cache.reset()
    inputs = {
        "input_ids": torch.full((ROWS, tokens), 3),
        "attention_mask": torch.ones(ROWS, CAPACITY, dtype=torch.long),
        "position_ids": torch.zeros(ROWS, tokens, dtype=torch.long),
        "past_key_values": cache,
        "use_cache": True,
    }
    return gw.target("hpu").lower(gw.capture(model, inputs, dynamic=None))


def calls(artifact: Any) -> list[str]:
    return [call for calls in artifact.provenance.values() for call in calls]


@pytest.mark.parametrize("backend", ["", "hpu_backend"])
def test_static_cache(backend: str, stand_in: list[Any]) -> None:
    """A prompt and single tokens on one cache, written in place; left padding; grouped heads are not repeated."""
    model = llama()
    first, later = (step(model, tokens).configure("cpu", backend) for tokens in (PROMPT, 1))
    assert "index_copy_" in calls(later) and "expand" not in calls(later)
    names = [port for port in first.interface.inputs if port.name.startswith("past")]
    state = {port.name: torch.zeros(port.shape, dtype=port.torch_dtype()) for port in names}
    ids, mask = prompt()
    tokens, new, position = ids, ids, (mask.cumsum(-1) - 1).clamp(min=0)
    whole = torch.nn.functional.pad(mask, (0, CAPACITY - PROMPT), value=1)
    for i in range(STEPS):
        given = {"input_ids": new, "attention_mask": whole, "position_ids": position}
        results = (first if i == 0 else later).run(**given, **state)
        state = {name: results["present" + name.removeprefix("past_key_values")] for name in state}
        new = results["logits"][:, -1:].argmax(-1)
        tokens, position = torch.cat([tokens, new], 1), position[:, -1:] + 1
    assert torch.equal(tokens, expected(model))
    assert len(stand_in) == (2 if backend else 0)


@pytest.mark.slow
def test_generate(tmp_path: Path) -> None:
    """`generate` of the exported model pads each step to a bucket."""
    model = llama()
    target = "hpu{sizes=batch:2/sequence:1+6/past_sequence:0+16}"
    assert gw.export(model, tmp_path / "out", target, task="text-generation-with-past").ok
    loaded = gw.load_artifact(tmp_path / "out")
    ids, mask = prompt()
    options = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(loaded.generate(ids, attention_mask=mask, **options), expected(model))
