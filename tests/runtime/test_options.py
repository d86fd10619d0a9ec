"""Options of `optimize`: the target, padding left out, and results that are computed ahead of the checks."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers as tf

import graphwright as gw
from graphwright.lowering.eager.artifact import EagerArtifact
from graphwright.lowering.eager.target import EagerTarget
from graphwright.runtime.optimize import dispatcher_of

SIZE = {"vocab_size": 50, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 48}


def _bert():
    torch.manual_seed(0)
    model = tf.BertModel(tf.BertConfig(**SIZE, max_position_embeddings=40), add_pooling_layer=False).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model


def _inputs(rows=3, length=8):
    mask = (torch.arange(length) < (length - 2 * torch.arange(rows))[:, None]).long()
    return {"input_ids": torch.randint(1, 50, (rows, length)), "attention_mask": mask}


@pytest.fixture(autouse=True)
def speeds(monkeypatch, tmp_path):
    monkeypatch.setenv("GRAPHWRIGHT_CACHE", str(tmp_path))


def test_padding_left_out():
    model, inputs = _bert().double(), _inputs()
    fast = gw.optimize(model, remove_padding=True)
    with torch.no_grad():
        expected = model(**inputs)[0]
        for _ in range(2):
            actual = fast(**inputs)[0]
    keep = inputs["attention_mask"] == 1
    torch.testing.assert_close(actual[keep], expected[keep], rtol=0, atol=1e-10)  # float64 rounding
    assert not actual[~keep].any() and dispatcher_of(fast).served == 1
    assert "remove-padding" in str(
        dispatcher_of(gw.optimize(model, pipeline="canonicalize", remove_padding=True)).pipeline
    )


@pytest.mark.parametrize("target", ["eager{linear=packed}", "eager{dtype=bfloat16}", EagerTarget(fold="never")])
def test_targets(target):
    model, inputs = _bert(), _inputs()
    fast = gw.optimize(model, target=target)
    with torch.no_grad():
        expected = model(**inputs)[0]
        for _ in range(2):
            actual = fast(**inputs)[0]
    allowed = 5e-2 if "bfloat16" in str(target) else 1e-4  # of products in half precision, over two layers
    assert (actual - expected).abs().max() < allowed * expected.abs().max()
    assert dispatcher_of(fast).served == 1 and dispatcher_of(fast).reasons == []
    assert str(dispatcher_of(copy.deepcopy(fast)).target) == str(dispatcher_of(fast).target)


def test_other_targets_are_refused():
    with pytest.raises(gw.GraphwrightError, match="optimize cannot run graphs with the target 'onnx"):
        gw.optimize(_bert(), target="onnx")


def test_results_ahead_are_forgotten_where_the_model_has_changed(monkeypatch):
    """What a GPU has computed before the host has found a change is never returned."""
    ahead = []

    def run(self, inputs):
        ahead.append(self)
        return self.flat(inputs)

    monkeypatch.setattr(EagerArtifact, "ahead", run)
    model, inputs = _bert(), _inputs()
    fast = gw.optimize(model)
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(fast(**inputs)[0], model(**inputs)[0], rtol=1e-5, atol=1e-5)
        assert len(ahead) == 2 and dispatcher_of(fast).served == 2
        model.encoder.layer[0].output.dense = torch.nn.Linear(48, 32)
        torch.testing.assert_close(fast(**inputs)[0], model(**inputs)[0], rtol=1e-5, atol=1e-5)
        assert len(ahead) == 3 and dispatcher_of(fast).served == 2


def _gpt2():
    torch.manual_seed(0)
    config = tf.GPT2Config(vocab_size=50, n_embd=256, n_layer=2, n_head=4, n_positions=40, eos_token_id=None)
    model = tf.GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bfloat16 in oneDNN here")
def test_steps_are_narrow_where_it_is_allowed():
    model = _gpt2()
    fast = gw.optimize(model, target="eager{dtype=bfloat16}")
    options = {"max_new_tokens": 6, "return_dict_in_generate": True, "output_logits": True, "pad_token_id": 0}
    for _ in range(2):
        found = fast.generate(torch.randint(1, 50, (1, 7)), do_sample=False, **options)
        with torch.no_grad():
            expected = model(found.sequences).logits[:, 6:-1].transpose(0, 1)
        error = (torch.stack(found.logits) - expected).abs().max()
        assert 0 < error < 5e-2 * expected.abs().max()  # products in half precision, over two layers
        model.transformer.h[0].mlp.c_fc.weight.data.mul_(-1)  # narrow copies of weights follow
