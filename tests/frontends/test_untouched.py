"""What a capture leaves behind in the model: nothing."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch

from graphwright.frontends.capture import capture
from graphwright.frontends.shim import untouched


class Careless(torch.nn.Module):
    """Changes everything it can reach when it runs."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(1))
        self.tensors = [torch.ones(2), torch.ones(3)]
        self.nested = {"lists": [[1, 2], [3]], "names": {"a"}, "ordered": OrderedDict(b=1, a=2)}

    def forward(self, x):
        self.linear.register_forward_hook(lambda *_: None)
        self.calls += 1
        self.tensors.append(x)
        self.nested["lists"][0].reverse()
        self.nested["names"].add("b")
        self.nested["ordered"].move_to_end("b")
        self.linear.seen = True
        return self.linear(x)


def test_everything_is_put_back():
    model = Careless()
    hooks, tensors = model.linear._forward_hooks, list(model.tensors)
    with untouched(model):
        model(torch.ones(2, 4))
    assert model.linear._forward_hooks is hooks
    assert not hooks
    assert model.calls.item() == 0
    assert all(a is b for a, b in zip(model.tensors, tensors, strict=True))
    assert model.nested == {"lists": [[1, 2], [3]], "names": {"a"}, "ordered": OrderedDict(b=1, a=2)}
    assert list(model.nested["ordered"]) == ["b", "a"]
    assert not hasattr(model.linear, "seen")


def test_an_untouched_container_is_not_rewritten():
    class Watched(dict):
        def clear(self):
            raise AssertionError

    model = torch.nn.Linear(2, 2)
    model.watched = Watched(a=torch.ones(2))
    with untouched(model):
        model(torch.ones(1, 2))
    assert torch.equal(model.watched["a"], torch.ones(2))


@pytest.fixture
def segformer():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[3, 3],
        strides=[2, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
    )
    return transformers.SegformerForSemanticSegmentation(config).eval().double()


def test_hooks_of_a_model_that_was_never_called(segformer):
    before = {name: (len(m._forward_hooks), set(vars(m))) for name, m in segformer.named_modules()}
    capture(segformer, {"pixel_values": torch.randn(2, 3, 16, 16, dtype=torch.float64)})
    assert {name: (len(m._forward_hooks), set(vars(m))) for name, m in segformer.named_modules()} == before


def test_results_after_a_capture_are_those_before(segformer):
    pixels = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    state = {name: value.clone() for name, value in segformer.state_dict().items()}
    capture(segformer, {"pixel_values": pixels})
    fresh = type(segformer)(segformer.config).eval().double()
    fresh.load_state_dict(state)
    ours, theirs = (m(pixels, output_hidden_states=True) for m in (segformer, fresh))
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=0)
    assert len(ours.hidden_states) == len(theirs.hidden_states) > 0
    for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
