"""Training through an optimised model: the same gradients, on the same parameters."""

from __future__ import annotations

import copy

import pytest
import torch

from graphwright.runtime.optimize import dispatcher_of, optimize

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def loss_of(model, ids, attention_mask):
    if model.can_generate():
        return model(input_ids=ids, attention_mask=attention_mask, labels=ids).loss
    return model(input_ids=ids, attention_mask=attention_mask)[0].pow(2).sum()


def train(name, make, tokens, mask, prepare):
    """Losses and gradients of a model and its optimised copy over a few steps."""
    model = prepare(make(name).double()).train()
    optimized = optimize(copy.deepcopy(model))
    for step, (batch, length) in enumerate([(3, 7), (2, 9), (3, 5), (2, 4)]):
        gradients = []
        for candidate in (model, optimized):
            torch.manual_seed(step)
            optimizer = torch.optim.SGD(candidate.parameters(), lr=1e-3)
            optimizer.zero_grad()
            loss = loss_of(candidate, tokens(batch, length), mask(batch, length, "right"))
            loss.backward()
            gradients.append([loss.detach(), *(p.grad for p in candidate.parameters())])
            optimizer.step()
        for expected, actual in zip(*gradients, strict=True):
            assert (expected is None) == (actual is None)
            if expected is not None:
                torch.testing.assert_close(actual, expected, **TOLERANCE)
    return optimized


def assert_served(optimized):
    """Whether the graph was used; some transformers draw LayerDrop from data even at 0, which no graph can hold."""
    dispatcher = dispatcher_of(optimized)
    if dispatcher.served == 0 and any(hasattr(module, "layerdrop") for module in optimized.modules()):
        assert dispatcher.reasons
    else:
        assert dispatcher.served == 3


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "bloom", "bert", "t5", "bart"])
def test_same_gradients(name, make, tokens, mask):
    optimized = train(name, make, tokens, mask, without_dropout)
    assert_served(optimized)


@pytest.mark.parametrize("name", ["gpt2", "bert", "opt"])
def test_same_dropout_from_the_same_seed(name, make, tokens, mask):
    optimized = train(name, make, tokens, mask, lambda model: model)
    assert_served(optimized)


def test_dropout_is_active_in_train_mode_only(make, tokens):
    optimized = optimize(make("gpt2")).train()
    ids = tokens(2, 6)
    losses = {optimized(input_ids=ids, labels=ids).loss.item() for _ in range(4)}
    assert len(losses) == 4
    optimized.eval()
    losses = {optimized(input_ids=ids, labels=ids).loss.item() for _ in range(4)}
    assert max(losses) - min(losses) < 1e-4


def test_a_step_shows_in_the_graph(make, tokens):
    model = make("llama").double()
    optimized = optimize(model)
    ids = tokens(2, 6)
    with torch.no_grad():
        for _ in range(2):
            before = optimized(input_ids=ids).logits
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    with torch.no_grad():
        after, expected = optimized(input_ids=ids).logits, model(input_ids=ids).logits
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, expected, **TOLERANCE)
    assert dispatcher_of(optimized).captures == 1


def test_gradient_of_an_input(make):
    model = without_dropout(make("gpt2").double())
    optimized = optimize(model)
    for length in (5, 6):
        found = []
        for candidate in (model, optimized):
            embedded = torch.linspace(-1, 1, 2 * length * 32, dtype=torch.float64).view(2, length, 32).requires_grad_()
            candidate(inputs_embeds=embedded).logits.square().sum().backward()
            found.append(embedded.grad)
        torch.testing.assert_close(found[1], found[0], **TOLERANCE)
    assert dispatcher_of(optimized).served == 1


def test_frozen_parameters_get_no_gradient(make, tokens):
    model = make("gpt2").double()
    model.transformer.wte.weight.requires_grad_(False)
    optimized = optimize(model)
    for length in (5, 6):
        optimized(input_ids=tokens(2, length), labels=tokens(2, length)).loss.backward()
    assert model.transformer.wte.weight.grad is None
    assert model.transformer.h[0].attn.c_attn.weight.grad.abs().max() > 0


def test_gradient_checkpointing_falls_back(make, tokens):
    optimized = optimize(make("llama")).train()
    optimized.gradient_checkpointing_enable()
    optimized(input_ids=tokens(2, 5), labels=tokens(2, 5)).loss.backward()
    assert dispatcher_of(optimized).reasons == ["gradient checkpointing is on"]
    assert dispatcher_of(optimized).captures == 0


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_gradients_under_autocast_are_those_of_the_original(name, make, tokens, mask):
    model = make(name).train()
    optimized = optimize(copy.deepcopy(model))
    for step in range(2):
        gradients = []
        for candidate in (model, optimized):
            torch.manual_seed(step)
            candidate.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(candidate, tokens(2, 7), mask(2, 7, "right"))
            loss.backward()
            gradients.append([p.grad for p in candidate.parameters() if p.grad is not None])
        for expected, actual in zip(*gradients, strict=True):
            assert torch.equal(expected, actual)
    assert dispatcher_of(optimized).reasons == ["autocast is on"]


def test_gradient_checkpointing_recomputes_and_gives_the_same_gradients(make, tokens, mask):
    model = make("gpt2").double().train()
    optimized = optimize(copy.deepcopy(model))
    optimized.gradient_checkpointing_enable()
    calls = []
    optimized.transformer.h[0].mlp.act.forward = _counted(optimized.transformer.h[0].mlp.act.forward, calls)
    gradients = []
    for candidate in (model, optimized):
        torch.manual_seed(0)
        loss_of(candidate, tokens(2, 7), mask(2, 7, "right")).backward()
        gradients.append([p.grad for p in candidate.parameters() if p.grad is not None])
    for expected, actual in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, **TOLERANCE)
    assert len(calls) == 2  # once forward, once more in the backward pass


def _counted(function, calls):
    def counted(*args):
        calls.append(args)
        return function(*args)

    return counted
