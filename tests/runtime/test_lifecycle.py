"""An optimised model and its original are two faces of one set of weights."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch

from graphwright.runtime.optimize import dispatcher_of, optimize, restore


@pytest.fixture
def model(make):
    return make("gpt2")


def compare(model, optimized, ids, calls=2, tolerance=1e-4):
    with torch.no_grad():
        for _ in range(calls):
            torch.testing.assert_close(optimized(ids).logits, model(ids).logits, rtol=tolerance, atol=tolerance)


def test_faces(model):
    optimized = optimize(model)
    assert isinstance(optimized, type(model))
    assert type(optimized).__name__ == type(model).__name__
    assert inspect.signature(optimized.forward) == inspect.signature(model.forward)
    assert all(a is b for a, b in zip(model.parameters(), optimized.parameters(), strict=True))
    assert restore(optimized) is model
    assert restore(model) is model
    assert optimize(optimized) is optimized


def test_the_original_keeps_its_own_forward(model, tokens):
    optimized = optimize(model)
    for _ in range(3):
        model(tokens(2, 5))
    assert dispatcher_of(optimized).captures == 0


def test_to_another_type(model, tokens):
    optimized = optimize(model)
    compare(model, optimized, tokens(2, 5))
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.bfloat16, 5e-2), (torch.float32, 1e-4)):
        assert optimized.to(dtype).dtype == dtype
        compare(model, optimized, tokens(2, 5), tolerance=tolerance)
    assert dispatcher_of(optimized).reasons == []


def test_state_dict(model, make, tokens):
    optimized = optimize(model)
    compare(model, optimized, tokens(2, 5))
    assert list(optimized.state_dict()) == list(model.state_dict())
    assert all(torch.equal(optimized.state_dict()[k], v) for k, v in model.state_dict().items())
    other = make("gpt2")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01)
    optimized.load_state_dict(other.state_dict())
    compare(other, optimized, tokens(2, 5))
    assert dispatcher_of(optimized).captures == 1


def test_writing_through_data(model, tokens):
    optimized = optimize(model)
    compare(model, optimized, tokens(2, 5))
    for parameter in model.parameters():
        parameter.data.mul_(1.3)
    compare(model, optimized, tokens(2, 5))
    model.lm_head.weight.data = model.lm_head.weight.data * 0.5
    compare(model, optimized, tokens(2, 5))


def test_buffers_in_place(make, tokens):
    model = make("llama")
    optimized = optimize(model)
    compare(model, optimized, tokens(2, 5))
    model.model.rotary_emb.inv_freq.mul_(0.5)
    compare(model, optimized, tokens(2, 5), calls=3)
    assert dispatcher_of(optimized).captures == 2


def test_replaced_weights_and_modules(model, tokens):
    optimized = optimize(model)
    compare(model, optimized, tokens(2, 5))
    optimized.resize_token_embeddings(120)
    compare(model, optimized, tokens(2, 5))
    model.transformer.ln_f = torch.nn.Identity()
    compare(model, optimized, tokens(2, 5))
    model.transformer.h[0].ln_1.eps = 0.5
    compare(model, optimized, tokens(2, 5))
    model.config.output_hidden_states = True
    assert len(optimized(tokens(2, 5)).hidden_states) == 3


def test_train_and_eval_keep_their_graphs(model, tokens):
    optimized = optimize(model)
    for _ in range(3):
        optimized.train()(tokens(2, 5))
        optimized.eval()(tokens(2, 5))
    assert not model.training
    assert dispatcher_of(optimized).captures == 2


def test_deepcopy_is_independent(model, tokens):
    optimized = optimize(model)
    compare(model, optimized, tokens(2, 5))
    twin = copy.deepcopy(optimized)
    assert isinstance(twin, type(model))
    assert dispatcher_of(twin) is not dispatcher_of(optimized)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.5)
    compare(restore(twin), twin, tokens(2, 5))
    compare(model, optimized, tokens(2, 5))
    assert (twin(tokens(2, 5)).logits - optimized(tokens(2, 5)).logits).abs().max() > 1e-2


def test_pickle(model, tokens):
    optimized = optimize(model)
    compare(model, optimized, tokens(2, 5))
    loaded = pickle.loads(pickle.dumps(optimized))
    assert dispatcher_of(loaded).captures == 0
    compare(model, loaded, tokens(2, 5))


def test_save_pretrained(model, tokens, tmp_path):
    optimized = optimize(model)
    optimized.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config.architectures == ["GPT2LMHeadModel"]
    compare(loaded, optimized, tokens(2, 5))


def test_capture_at_once(model, tokens):
    optimized = optimize(model, {"input_ids": tokens(2, 5)})
    assert dispatcher_of(optimized).captures == 1
    optimized(input_ids=tokens(3, 8))
    assert dispatcher_of(optimized).served == 1


def test_dispatcher_of_a_plain_model(model):
    with pytest.raises(TypeError, match="not optimised"):
        dispatcher_of(model)
