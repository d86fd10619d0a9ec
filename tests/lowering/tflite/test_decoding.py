"""Decoders with caches of fixed size on LiteRT: among the inputs, or in variables that the signatures share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

t = pytest.importorskip("transformers")
pytest.importorskip("ai_edge_litert")

import graphwright as gw  # noqa: E402
from graphwright.lowering.artifact import load_artifact  # noqa: E402
from graphwright.lowering.tflite.session import Session  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from tflite_zoo import build  # noqa: E402

ROWS, PROMPT, STEPS, CAPACITY = 2, 6, 8, 24


def lowered(model: Any, cache: str) -> Any:
    """A signature for a prompt and one for single tokens, on a cache of fixed size."""
    held = t.StaticCache(config=model.config, max_cache_len=CAPACITY)
    with torch.no_grad():
        model(torch.full((ROWS, 1), 3), past_key_values=held)
    held.reset()
    inputs = {
        "input_ids": torch.full((ROWS, PROMPT), 3),
        "attention_mask": torch.ones(ROWS, CAPACITY, dtype=torch.long),
        "position_ids": torch.zeros(ROWS, PROMPT, dtype=torch.long),
        "past_key_values": held,
        "use_cache": True,
    }
    dynamic = {"input_ids": {1: "sequence"}, "position_ids": {1: "sequence"}}
    program = gw.capture(model, inputs, dynamic=dynamic)
    return gw.target(f"tflite{{sizes=sequence:1+{PROMPT},cache={cache}}}").lower(program)


def prompt() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and a mask with padding on the left in one row."""
    mask = torch.ones(ROWS, PROMPT, dtype=torch.long)
    mask[1, :2] = 0
    return torch.randint(3, 50, (ROWS, PROMPT), generator=torch.Generator().manual_seed(1)), mask


def decoded(call: Any) -> torch.Tensor:
    """The prompt and greedy tokens after it; `call` returns logits for tokens, mask and positions."""
    new, mask = prompt()
    tokens, positions = new, (mask.cumsum(-1) - 1).clamp(min=0)
    whole = torch.nn.functional.pad(mask, (0, CAPACITY - PROMPT), value=1)
    for _ in range(STEPS):
        new = call(new, whole, positions)[:, -1:].argmax(-1)
        tokens, positions = torch.cat([tokens, new], 1), positions[:, -1:] + 1
    return tokens


def expected(model: Any) -> torch.Tensor:
    ids, mask = prompt()
    options = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(ids, attention_mask=mask, **options)


def with_given_cache(artifact: Any) -> Any:
    """A call that hands the cache in and takes it back."""
    ports = [port for port in artifact.interface.inputs if port.name.startswith("past")]
    state = {port.name: torch.zeros(port.shape, dtype=port.torch_dtype()) for port in ports}

    def call(ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        results = artifact.run(input_ids=ids, attention_mask=mask, position_ids=positions, **state)
        state.update({name: results["present" + name.removeprefix("past_key_values")] for name in state})
        return results["logits"]

    return call


def with_held_cache(artifact: Any) -> Any:
    """A call as an application makes it: the model keeps the cache."""
    interpreter = artifact.file.make()
    interpreter.get_signature_runner("reset_cache")()

    def call(ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        runner = interpreter.get_signature_runner(f"sequence{ids.shape[1]}")
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        return torch.from_numpy(runner(**{name: value.int().numpy() for name, value in feeds.items()})["logits"])

    return call


def in_place(artifact: Any) -> Any:
    """A call on buffers that are both the cache before and the cache after."""
    session = Session(artifact)

    def call(ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return session.run(input_ids=ids, attention_mask=mask, position_ids=positions)["logits"]

    return call


@pytest.mark.parametrize(
    "name", ["llama", *(pytest.param(n, marks=pytest.mark.slow) for n in ("gpt2", "qwen2", "qwen3", "gemma"))]
)
def test_the_tokens_are_those_of_generate(name: str, tmp_path: Path) -> None:
    model = build(name)
    want = expected(model)
    given, held = lowered(model, "inputs"), lowered(model, "variables")
    assert torch.equal(decoded(with_given_cache(given)), want)
    assert torch.equal(decoded(with_given_cache(held)), want)
    assert torch.equal(decoded(in_place(given)), want)
    held.save(tmp_path / "out")
    assert torch.equal(decoded(with_held_cache(load_artifact(tmp_path / "out"))), want)


def test_the_cache_is_updated_in_a_block_and_leaves_the_signature() -> None:
    artifact = lowered(build("llama"), "variables")
    codes = [call.split(":")[0] for calls in artifact.provenance.values() for call in calls]
    assert codes.count("DYNAMIC_UPDATE_SLICE") == 4 and "SCATTER_ND" not in codes
    signatures = artifact.file.interpreter.get_signature_list()
    assert sorted(signatures) == ["load_cache", "reset_cache", "sequence1", f"sequence{PROMPT}", "store_cache"]
    assert signatures["sequence1"]["outputs"] == ["logits"]


@pytest.mark.slow
def test_generate_pads_caches_that_grow_to_buckets(tmp_path: Path) -> None:
    model = build("llama")
    target = "tflite{sizes=batch:2/sequence:1+6/past_sequence:0+16}"
    assert gw.export(model, tmp_path / "out", target, task="text-generation-with-past").ok
    ids, mask = prompt()
    options = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    loaded = gw.load_artifact(tmp_path / "out")
    assert torch.equal(loaded.generate(ids, attention_mask=mask, **options), expected(model))
