"""What `generate` offers, on static buffers: processors, criteria, streamers, returned caches, growth."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import StoppingCriteria, StoppingCriteriaList

from graphwright.runtime.generation import caches
from graphwright.runtime.optimize import dispatcher_of, optimize


class Recorder:
    """A streamer that keeps what it gets."""

    def __init__(self):
        self.pieces = []

    def put(self, tokens):
        self.pieces.append(tokens.view(-1).tolist())

    def end(self):
        self.pieces.append("end")


class StopsAfter(StoppingCriteria):
    """Stops each sequence once it has the given length; counts its calls."""

    def __init__(self, length):
        self.length, self.calls = length, 0

    def __call__(self, input_ids, scores, **kwargs):
        self.calls += 1
        return torch.full((input_ids.shape[0],), input_ids.shape[1] >= self.length)


@pytest.fixture(scope="module")
def pair(make):
    model = make("llama")
    return model, optimize(model)


def generate(model, ids, **options):
    torch.manual_seed(3)
    return model.generate(ids, pad_token_id=0, **{"max_new_tokens": 8, "do_sample": False} | options)


def test_the_steps_are_served(pair, tokens):
    model, optimized = pair
    before = dispatcher_of(optimized).served
    assert torch.equal(generate(model, tokens(2, 6)), generate(optimized, tokens(2, 6)))
    assert dispatcher_of(optimized).served >= before + 7
    assert dispatcher_of(optimized).reasons == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.9},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"min_new_tokens": 6, "eos_token_id": list(range(40))},
        {"num_return_sequences": 2, "do_sample": True},
        {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5, "early_stopping": True},
        {"num_beams": 2, "do_sample": True},
    ],
)
def test_processors(options, pair, tokens, mask):
    model, optimized = pair
    ids, attention_mask = tokens(2, 6), mask(2, 6, "left")
    expected = generate(model, ids, attention_mask=attention_mask, **options)
    assert torch.equal(expected, generate(optimized, ids, attention_mask=attention_mask, **options))


def test_inside_and_outside_of_inference_mode(make, tokens):
    model = make("gpt2")
    optimized = optimize(model)
    expected = generate(model, tokens(2, 6))
    with torch.inference_mode():
        assert torch.equal(expected, generate(optimized, tokens(2, 6)))
    assert torch.equal(expected, generate(optimized, tokens(2, 6)))
    assert dispatcher_of(optimized).reasons == []


def test_a_failing_streamer_leaves_the_users_cache_whole(pair, tokens):
    class Fails(Recorder):
        def put(self, tokens):
            super().put(tokens)
            if len(self.pieces) > 4:
                raise RuntimeError("the reader is gone")

    cache = transformers.DynamicCache()
    with pytest.raises(RuntimeError, match="gone"):
        generate(pair[1], tokens(2, 6), past_key_values=cache, streamer=Fails())
    assert cache.get_seq_length() == 6 + 3


def test_sequences_end_at_different_times(pair, tokens):
    model, optimized = pair
    ids = tokens(3, 6)
    free = generate(model, ids, max_new_tokens=12)
    ends = [int(free[0, 8]), int(free[1, 11]), int(free[2, 14])]
    expected = generate(model, ids, max_new_tokens=30, eos_token_id=ends)
    assert expected.shape[1] < 36
    assert torch.equal(expected, generate(optimized, ids, max_new_tokens=30, eos_token_id=ends))


def test_streamer_and_criteria_are_called_as_often(pair, tokens):
    results = []
    for model in pair:
        streamer, criterion = Recorder(), StopsAfter(11)
        generate(model, tokens(1, 6), streamer=streamer, stopping_criteria=StoppingCriteriaList([criterion]))
        results.append((streamer.pieces, criterion.calls))
    assert results[0] == results[1]
    assert results[0][0][-1] == "end"


def test_scores_logits_and_the_cache_come_back(pair, tokens):
    options = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, "repetition_penalty": 1.5}
    expected, actual = (generate(candidate, tokens(2, 6), **options) for candidate in pair)
    assert type(expected) is type(actual)
    assert torch.equal(expected.sequences, actual.sequences)
    for name in ("scores", "logits"):
        for one, other in zip(expected[name], actual[name], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert type(actual.past_key_values) is type(expected.past_key_values)
    for one, other in zip(expected.past_key_values.layers, actual.past_key_values.layers, strict=True):
        torch.testing.assert_close(one.keys, other.keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one.values, other.values, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_returned_cache_can_be_continued(pair, tokens):
    results = []
    for model in pair:
        first = generate(model, tokens(2, 6), max_new_tokens=3, return_dict_in_generate=True)
        results.append(generate(model, first.sequences, past_key_values=first.past_key_values, max_new_tokens=6))
    assert torch.equal(*results)


@pytest.mark.slow
def test_beams_return_a_growing_cache(pair, tokens):
    expected, actual = (
        generate(model, tokens(2, 6), num_beams=2, return_dict_in_generate=True, output_scores=True) for model in pair
    )
    torch.testing.assert_close(expected.sequences_scores, actual.sequences_scores, rtol=1e-4, atol=1e-4)
    assert type(actual.past_key_values) is type(expected.past_key_values)
    torch.testing.assert_close(expected.past_key_values.layers[0].keys, actual.past_key_values.layers[0].keys)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"use_mask": True}])
def test_buffers_grow(options, make, tokens, mask, monkeypatch):
    monkeypatch.setattr(caches, "_STEP", 4)
    monkeypatch.setattr(caches, "capacity_for", lambda count, limit: -(-count // 4) * 4)
    monkeypatch.setattr("graphwright.runtime.generation.session.capacity_for", caches.capacity_for)
    model = make("gpt2")
    optimized = optimize(model)
    options = dict(options)
    if options.pop("use_mask", False):
        options["attention_mask"] = mask(2, 6, "left")
    expected = generate(model, tokens(2, 6), max_new_tokens=13, **options)
    assert torch.equal(expected, generate(optimized, tokens(2, 6), max_new_tokens=13, **options))
    assert dispatcher_of(optimized).reasons == []


def test_capacity_is_enough_and_not_far_more():
    for count in (1, 255, 256, 257, 5000):
        for limit in (None, count, count + 40, 100 * count):
            capacity = caches.capacity_for(count, limit)
            assert capacity >= count and capacity % 256 == 0
            assert limit is None or capacity < limit + 512
            assert capacity <= 2 * count + 512


def test_new_weights_show_at_once(make, tokens):
    model = make("gpt2")
    optimized = optimize(model)
    before = generate(optimized, tokens(2, 6))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    after = generate(optimized, tokens(2, 6))
    assert torch.equal(after, generate(model, tokens(2, 6)))
    assert not torch.equal(before, after)


def test_two_lengths_share_one_graph(make, tokens):
    optimized = optimize(make("gpt2"))
    generate(optimized, tokens(2, 6))
    captures = dispatcher_of(optimized).captures
    generate(optimized, tokens(2, 7), max_new_tokens=40)
    assert dispatcher_of(optimized).captures == captures


@pytest.mark.slow
@pytest.mark.parametrize("option", ["output_hidden_states", "output_attentions"])
def test_what_is_not_served_is_left_to_transformers(option, make, tokens):
    model = make("gpt2", attn_implementation="eager")
    options = {option: True, "return_dict_in_generate": True}
    expected, actual = (generate(candidate, tokens(2, 6), **options) for candidate in (model, optimize(model)))
    assert torch.equal(expected.sequences, actual.sequences)
    assert len(actual["hidden_states" if "hidden" in option else "attentions"]) == 8


@pytest.mark.slow
def test_a_static_cache_of_transformers_is_left_alone(pair, tokens):
    model, optimized = pair
    expected = generate(model, tokens(2, 6), cache_implementation="static")
    assert torch.equal(expected, generate(optimized, tokens(2, 6), cache_implementation="static"))


@pytest.mark.slow
def test_training_mode(pair, tokens):
    model, _ = pair
    optimized = optimize(model.train())
    try:
        assert torch.equal(generate(model, tokens(2, 6)), generate(optimized, tokens(2, 6)))
    finally:
        model.eval()


@pytest.mark.slow
def test_gemma2_with_a_window_and_soft_capping(tokens, mask):
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=8, pad_token_id=0, bos_token_id=1, eos_token_id=98,
    )  # fmt: skip
    model = transformers.Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    optimized = optimize(model)
    for attention_mask in (mask(2, 6, "left"), None):
        expected = generate(model, tokens(2, 6), attention_mask=attention_mask)
        assert torch.equal(expected, generate(optimized, tokens(2, 6), attention_mask=attention_mask))


@pytest.mark.slow
def test_whisper():
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=99, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=20,
        max_target_positions=64, pad_token_id=0, bos_token_id=1, eos_token_id=98, decoder_start_token_id=2,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    features = torch.randn(2, 8, 40)
    optimized = optimize(model)
    for options in ({}, {"num_beams": 2}):
        torch.manual_seed(1)
        expected = model.generate(features, max_new_tokens=8, do_sample=False, **options)
        assert torch.equal(expected, optimized.generate(features, max_new_tokens=8, do_sample=False, **options))
    assert dispatcher_of(optimized).served > 10
