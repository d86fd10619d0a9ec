"""`generate()` of an optimised model gives the tokens of the original."""

from __future__ import annotations

import pytest
import torch

from graphwright.runtime.optimize import dispatcher_of, optimize, restore

DECODERS = ["gpt2", "llama", "qwen2", "opt", "gpt_neox", "bloom"]
FAST = ("gpt2", "llama")
MODES = [{"do_sample": False}, {"do_sample": True}, {"num_beams": 3, "do_sample": False}]


def both(model, optimized, *args, **kwargs):
    """Tokens of the original and of the optimised model, with the same random numbers."""
    results = []
    for candidate in (model, optimized):
        torch.manual_seed(5)
        results.append(candidate.generate(*args, **kwargs, pad_token_id=0, max_new_tokens=8, min_new_tokens=8))
    return results


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in DECODERS]
)
def test_same_tokens(name, make, tokens, mask):
    model = make(name)
    optimized = optimize(model)
    for batch, padding in ((3, "left"), (1, "no")):
        for mode in MODES:
            ids, attention_mask = tokens(batch, 6), mask(batch, 6, padding)
            expected, actual = both(model, optimized, ids, attention_mask=attention_mask, **mode)
            assert torch.equal(expected, actual), (batch, padding, mode)
    dispatcher = dispatcher_of(optimized)
    assert dispatcher.reasons == []
    assert dispatcher.served > 4 * dispatcher.captures


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_encoder_decoder(name, make, tokens, mask):
    model = make(name)
    optimized = optimize(model)
    for mode in MODES:
        expected, actual = both(model, optimized, tokens(2, 6), attention_mask=mask(2, 6, "right"), **mode)
        assert torch.equal(expected, actual)
    assert dispatcher_of(optimized).reasons == []
    assert dispatcher_of(optimized).served > 10


def test_prompt_of_one_token(make, tokens):
    model = make("gpt2")
    expected, actual = both(model, optimize(model), tokens(2, 1))
    assert torch.equal(expected, actual)


def test_without_cache(make, tokens):
    model = make("llama")
    expected, actual = both(model, optimize(model), tokens(2, 5), use_cache=False)
    assert torch.equal(expected, actual)


@pytest.mark.parametrize("length", [5, 14])
def test_beyond_a_sliding_window(length, make, tokens):
    model = make("mistral")
    optimized = optimize(model)
    expected, actual = both(model, optimized, tokens(2, length))
    assert torch.equal(expected, actual)
    assert dispatcher_of(optimized).served > 0
    prompt_reasons = [] if length == 5 else ["the sliding window of a cache is full"]
    assert dispatcher_of(optimized).reasons == prompt_reasons


def test_left_padded_batch_in_one_line(make, tokens, mask):
    original = make("gpt2")
    ids, attention_mask = tokens(2, 7), mask(2, 7, "left")
    expected = original.generate(ids, attention_mask=attention_mask, max_new_tokens=20, pad_token_id=0)

    model = optimize(original)
    actual = model.generate(ids, attention_mask=attention_mask, max_new_tokens=20, pad_token_id=0)

    assert torch.equal(expected, actual)
    assert restore(model) is original
