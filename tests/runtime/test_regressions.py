"""Defects that drop-in attention replacements have had, each as a test."""

from __future__ import annotations

import pytest
import torch

from graphwright.runtime.optimize import dispatcher_of, optimize


def run(model, **inputs):
    """Results of the original and of a graph that was captured at another length."""
    optimized = optimize(model.double())
    with torch.no_grad():
        other = {name: torch.cat([value, value[:, -1:]], 1) for name, value in inputs.items()}
        optimized(**other)
        results = model(**inputs)[0], optimized(**inputs)[0]
    assert dispatcher_of(optimized).served == 1
    return results


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_batch_of_two_without_mask_is_causal(name, make, tokens):
    model, ids = make(name), tokens(2, 6)
    expected, actual = run(model, input_ids=ids)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    changed = torch.cat([ids[:, :-1], (ids[:, -1:] + 1) % 90], 1)
    assert torch.equal(run(model, input_ids=changed)[1][:, :-1], actual[:, :-1])


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_single_left_padded_row_respects_the_mask(name, make, tokens, mask):
    model, ids = make(name), tokens(1, 6)
    expected, actual = run(model, input_ids=ids, attention_mask=mask(1, 6, "left"))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    unmasked = run(model, input_ids=ids)[1]
    assert (actual[:, -1] - unmasked[:, -1]).abs().max() > 1e-2


def test_t5_with_head_size_that_is_not_width_over_heads(make, tokens):
    model = make("t5")
    assert model.config.d_kv * model.config.num_heads != model.config.d_model
    expected, actual = run(model, input_ids=tokens(2, 6), decoder_input_ids=tokens(2, 6))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_roformer_keeps_its_rotary_positions(make, tokens):
    model, ids = make("roformer"), tokens(2, 6)
    expected, actual = run(model, input_ids=ids)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    shuffled = run(model, input_ids=ids.flip(1))[1].flip(1)
    assert (actual - shuffled).abs().max() > 1e-2


def test_all_rows_padded_keep_the_length(make, tokens, mask):
    attention_mask = mask(1, 10, "right").expand(2, 10).contiguous()
    expected, actual = run(make("bert"), input_ids=tokens(2, 10), attention_mask=attention_mask)
    assert actual.shape == expected.shape == (2, 10, 32)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["left", "scattered"])
def test_bert_takes_masks_with_gaps(kind, make, tokens, mask):
    expected, actual = run(make("bert"), input_ids=tokens(2, 6), attention_mask=mask(2, 6, kind))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_layer_norm_keeps_its_epsilon_in_training(make, tokens, mask):
    model = make("bert", layer_norm_eps=0.3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).double().train()
    optimized = optimize(model)
    for length in (5, 6):
        inputs = {"input_ids": tokens(2, length), "attention_mask": mask(2, length, "right")}
        torch.testing.assert_close(optimized(**inputs)[0], model(**inputs)[0], rtol=1e-10, atol=1e-10)
    assert dispatcher_of(optimized).served == 1


def test_gelu_new_is_not_replaced_by_gelu(make, tokens):
    expected, actual = run(make("albert"), input_ids=tokens(2, 6))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
