"""The forward of an optimised model: same classes, same values."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, StaticCache

from graphwright.runtime.capture import take_apart
from graphwright.runtime.optimize import dispatcher_of, optimize

NAMES = ["gpt2", "llama", "qwen2", "opt", "gpt_neox", "bloom", "bert", "roformer", "albert", "t5", "bart"]
# float64: what is left is the rounding of another order of summation.
TOLERANCE = 1e-10


def assert_same(model, optimized, tolerance=TOLERANCE, **kwargs):
    with torch.no_grad():
        expected, actual = model(**kwargs), optimized(**kwargs)
    assert type(expected) is type(actual)
    wanted, layout = take_apart(expected, [])
    found, found_layout = take_apart(actual, [])
    assert layout == found_layout
    for want, have in zip(wanted, found, strict=True):
        torch.testing.assert_close(have, want, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_same_values_for_all_paddings(name, make, tokens, mask):
    model = make(name).double()
    optimized = optimize(model)
    more = {"decoder_input_ids": tokens(3, 4)} if name in ("t5", "bart") else {}
    for _ in range(2):
        for batch, length in ((3, 7), (2, 9), (1, 5)):
            inputs = {"input_ids": tokens(batch, length)} | {key: value[:batch] for key, value in more.items()}
            assert_same(model, optimized, **inputs)
            for kind in ("no", "right", "left", "scattered"):
                assert_same(model, optimized, **inputs, attention_mask=mask(batch, length, kind))
    assert dispatcher_of(optimized).reasons == []
    assert dispatcher_of(optimized).served == 30 - 4


def test_images(make):
    model = make("vit").double()
    optimized = optimize(model)
    for batch in (2, 3, 1, 4):
        assert_same(model, optimized, pixel_values=torch.randn(batch, 3, 16, 16, dtype=torch.float64))
    assert dispatcher_of(optimized).served == 2


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama"])
def test_hidden_states(name, make, tokens):
    model = make(name).double()
    optimized = optimize(model)
    for length in (5, 6, 7, 8):
        assert_same(optimized, model, input_ids=tokens(2, length), output_hidden_states=True)
        result = optimized(input_ids=tokens(2, length), output_hidden_states=True)
        assert len(result.hidden_states) == 3
    assert_same(model, optimized, input_ids=tokens(2, 5))


def test_tuple_instead_of_model_output(make, tokens):
    model = make("gpt2").double()
    optimized = optimize(model)
    for length in (5, 6):
        assert_same(model, optimized, input_ids=tokens(2, length), return_dict=False)


def test_positional_arguments_and_embeddings(make, tokens):
    model = make("gpt2").double()
    optimized = optimize(model)
    for length in (5, 6):
        embedded = model.get_input_embeddings()(tokens(2, length)).detach()
        assert_same(model, optimized, inputs_embeds=embedded)
        with torch.no_grad():
            torch.testing.assert_close(optimized(tokens(2, length))[0], model(tokens(2, length))[0])


def test_loss(make, tokens):
    model = make("llama").double()
    optimized = optimize(model)
    for length in (5, 6):
        assert_same(model, optimized, input_ids=tokens(2, length), labels=tokens(2, length))


def make_caches(model):
    return [lambda: DynamicCache(), lambda: DynamicCache(config=model.config)]


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom"])
def test_the_callers_cache_is_filled_and_returned(name, make, tokens, mask):
    model = make(name)
    optimized = optimize(model)
    for make_cache in make_caches(model):
        for _ in range(2):
            expected, actual = make_cache(), make_cache()
            for start, end in ((0, 4), (4, 5), (5, 8), (8, 9)):
                inputs = {"input_ids": tokens(2, 9)[:, start:end], "attention_mask": mask(2, end, "left")}
                with torch.no_grad():
                    want = model(**inputs, past_key_values=expected, use_cache=True)
                    have = optimized(**inputs, past_key_values=actual, use_cache=True)
                assert have.past_key_values is actual
                torch.testing.assert_close(have.logits, want.logits, rtol=1e-4, atol=1e-4)
                assert actual.get_seq_length() == expected.get_seq_length() == end
                for old, new in zip(expected.layers, actual.layers, strict=True):
                    torch.testing.assert_close(new.keys, old.keys, rtol=1e-4, atol=1e-4)
                    torch.testing.assert_close(new.values, old.values, rtol=1e-4, atol=1e-4)
    assert dispatcher_of(optimized).reasons == []
    assert dispatcher_of(optimized).served >= 6


def test_static_cache_falls_back(make, tokens):
    model = make("llama")
    optimized = optimize(model)
    for _ in range(2):
        caches = [StaticCache(config=model.config, max_cache_len=16) for _ in range(2)]
        with torch.no_grad():
            want = model(input_ids=tokens(2, 4), past_key_values=caches[0], use_cache=True)
            have = optimized(input_ids=tokens(2, 4), past_key_values=caches[1], use_cache=True)
        assert torch.equal(want.logits, have.logits)
    assert dispatcher_of(optimized).captures == 0


def test_first_call_in_inference_mode(make, tokens):
    model = make("gpt2").double()
    optimized = optimize(model)
    with torch.inference_mode():
        for length in (5, 6):
            assert_same(model, optimized, input_ids=tokens(2, length))
    for length in (5, 6):
        assert_same(model, optimized, input_ids=tokens(2, length))
    assert dispatcher_of(optimized).captures == 1
