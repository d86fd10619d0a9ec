"""Prompts padded to a common length: one capture for all lengths, the same tokens, and what is left as it is."""

from __future__ import annotations

import pytest
import torch
import transformers as tf

import graphwright as gw
from graphwright.runtime.generation import prefill
from graphwright.runtime.optimize import dispatcher_of

SIZE = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def _llama(**more):
    torch.manual_seed(0)
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**SIZE, num_key_value_heads=2, pad_token_id=0, **more)).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4)
    return model.double()


def _gpt2():
    torch.manual_seed(0)
    return tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, pad_token_id=0)).eval()


@pytest.fixture
def padded(monkeypatch):
    """Prompts are padded on a CPU as well; their lengths after padding."""
    lengths = []

    def watched(arguments, inner=prefill.padded_prompt):
        found = inner(arguments)
        if found is not None:
            lengths.append(found[0]["input_ids"].shape[1])
        return found

    monkeypatch.setattr(prefill, "pays", lambda ids: True)
    monkeypatch.setattr(prefill, "STEP", 16)
    monkeypatch.setattr(prefill, "padded_prompt", watched)
    return lengths


@pytest.mark.parametrize("make", [_llama, pytest.param(_gpt2, marks=pytest.mark.slow)])
def test_tokens_are_those_of_the_original(padded, make):
    model = make()
    fast = gw.optimize(model)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    for rows, length in ((2, 5), (2, 9), (2, 19)):
        ids = torch.randint(1, 60, (rows, length))
        mask = (torch.arange(length) >= torch.arange(rows)[:, None] * 3).long()
        given = {"input_ids": ids * mask, "attention_mask": mask}
        assert torch.equal(fast.generate(**given, **options), model.generate(**given, **options)), (rows, length)
    assert set(padded) == {16, 32}
    assert dispatcher_of(fast).reasons == []


def test_the_returned_cache_has_no_padding(padded):
    model = _llama()
    fast = gw.optimize(model)
    ids = torch.randint(1, 60, (1, 7))
    options = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True, "eos_token_id": None}
    for _ in range(2):
        expected, actual = model.generate(ids, **options), fast.generate(ids, **options)
        for want, have in zip(expected.past_key_values.layers, actual.past_key_values.layers, strict=True):
            torch.testing.assert_close(have.keys, want.keys, rtol=0, atol=1e-10)  # float64 rounding
    assert padded


def test_a_model_that_padding_changes_gets_its_prompts_as_they_are(padded, monkeypatch):
    monkeypatch.setattr(prefill, "first_difference", lambda *tensors: "differs")
    model = _llama()
    fast = gw.optimize(model)
    ids = torch.randint(1, 60, (1, 7))
    for _ in range(2):
        assert torch.equal(fast.generate(ids, max_new_tokens=3), model.generate(ids, max_new_tokens=3))
    assert len(padded) == 1


def test_what_is_not_padded(padded):
    cache = tf.DynamicCache()
    ids = torch.ones(1, 5, dtype=torch.long)
    with torch.no_grad():
        assert prefill.padded_prompt({"input_ids": ids, "past_key_values": cache}) is not None
        assert prefill.padded_prompt({"input_ids": ids[:, :1], "past_key_values": cache}) is None
        assert prefill.padded_prompt({"input_ids": ids, "past_key_values": None}) is None
        assert prefill.padded_prompt({"input_ids": ids, "past_key_values": cache, "labels": ids}) is None
        mask = torch.ones(1, 1, 5, 5)
        assert prefill.padded_prompt({"input_ids": ids, "past_key_values": cache, "attention_mask": mask}) is None
        cache.update(torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4), 0)
        assert prefill.padded_prompt({"input_ids": ids, "past_key_values": cache}) is None
    assert prefill.padded_prompt({"input_ids": ids, "past_key_values": tf.DynamicCache()}) is None  # with gradients
