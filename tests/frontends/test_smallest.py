"""Sizes 0 and 1: the program is the model there, or refuses them."""

from __future__ import annotations

import logging

import pytest
import torch

from graphwright.frontends.capture import capture
from graphwright.ir.errors import InputError


class Squeeze(torch.nn.Module):
    """Drops the second dimension where it is 1."""

    def forward(self, x):
        return x.squeeze(1) * 2


class Branch(torch.nn.Module):
    def forward(self, x):
        return x + 1 if x.shape[1] == 1 else x - 1


class Together(torch.nn.Module):
    """Another result only where both dimensions are 1."""

    def forward(self, x):
        return x + 1 if x.shape[0] == 1 and x.shape[1] == 1 else x - 1


class Counting(torch.nn.BatchNorm1d):
    """Has a state that each call changes."""


def dims(program):
    return {dim.name: (dim.min, dim.max) for dim in program.dims}


@pytest.mark.parametrize("model", [Squeeze(), Branch()])
def test_a_size_of_one_that_matters_stays_fixed(model, caplog):
    x = torch.randn(1, 1, 8)
    with caplog.at_level(logging.WARNING, logger="graphwright"):
        program = capture(model, x)
    assert "x_1 static" in caplog.text
    assert torch.equal(program.run(x), model(x))
    many = torch.randn(5, 1, 8)
    assert torch.equal(program.run(many), model(many))
    with pytest.raises(InputError, match="fixed size 1"):
        program.run(torch.randn(1, 3, 8))


@pytest.mark.parametrize("model", [Squeeze(), Branch()])
def test_a_program_of_longer_inputs_refuses_a_size_of_one_that_matters(model):
    program = capture(model, torch.randn(2, 3, 8))
    assert dims(program) == {"batch": (1, None), "x_1": (2, None), "x_2": (1, None)}
    long = torch.randn(1, 4, 8)
    assert torch.equal(program.run(long), model(long))
    with pytest.raises(InputError, match="allowed are 2 to any"):
        program.run(torch.randn(2, 1, 8))


@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 3, 8), (1, 3, 8), (3, 1, 8)])
def test_sizes_that_matter_only_together(shape):
    model = Together()
    program = capture(model, torch.randn(shape))
    for size in [shape, (1, 1, 8), (1, 3, 8), (3, 1, 8)]:
        x = torch.randn(size)
        try:
            actual = program.run(x)
        except InputError:
            assert size != shape
        else:
            assert torch.equal(actual, model(x))


def test_a_dimension_that_must_be_dynamic_starts_at_two(caplog):
    with caplog.at_level(logging.WARNING, logger="graphwright"):
        program = capture(Squeeze(), torch.randn(1, 1, 8), dynamic={"x": {1: "length"}})
    assert dims(program) == {"length": (2, None)}
    assert "length is 2 or more" in caplog.text


def test_trying_leaves_state_and_random_numbers_alone():
    model = Counting(4).train()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    program = capture(model, torch.ones(2, 4, 6))
    assert torch.equal(torch.rand(3), expected)
    assert model.num_batches_tracked.item() == 0
    assert torch.equal(model.running_mean, torch.zeros(4))
    assert dims(program)["batch"] == (1, None)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_an_empty_cache_is_no_cache(captured, name):
    model, program = captured(name, "text-generation-with-past")
    assert dims(program)["past_sequence"][0] == 0
    assert dims(program)["sequence"][0] == 1
    ids = torch.randint(0, 99, (3, 6))
    padded = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 6])
    for mask in (torch.ones_like(ids), padded):
        expected = model(ids, attention_mask=mask)
        cache = capture_cache(program, 3, 0)
        actual = program.run(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
        real = mask.bool()
        torch.testing.assert_close(actual.logits[real], expected.logits[real], rtol=1e-9, atol=1e-9)
        for layer, other in zip(actual.past_key_values.layers, expected.past_key_values.layers, strict=True):
            torch.testing.assert_close(layer.keys, other.keys, rtol=1e-9, atol=1e-9)


def capture_cache(program, batch, past):
    """The example's cache at another size."""
    from torch.utils import _pytree as pytree

    leaves, spec = pytree.tree_flatten(program.example.kwargs["past_key_values"])
    return pytree.tree_unflatten([leaf.new_zeros(batch, leaf.shape[1], past, leaf.shape[3]) for leaf in leaves], spec)
