"""remove-padding: real positions as the original, padded ones 0, for every kind of padding, model and gradient."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import transformers as tf

import graphwright as gw
from graphwright.ir.node import bound, is_call
from graphwright.ir.packing import token_plan
from graphwright.passes.padding.region import find_region
from graphwright.passes.padding.remove import RemovePadding
from graphwright.runtime.call import Call
from graphwright.runtime.capture import capture_call
from graphwright.runtime.optimize import dispatcher_of

ops = torch.ops.graphwright
SIZE = {"vocab_size": 50, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 48}
BERT = SIZE | {"max_position_embeddings": 40}
MODELS = {
    "bert": lambda: tf.BertModel(tf.BertConfig(**BERT)),
    "bert eager": lambda: tf.BertModel(tf.BertConfig(**BERT, attn_implementation="eager")),
    "bert classifier": lambda: tf.BertForSequenceClassification(tf.BertConfig(**BERT)),
    "bert mlm": lambda: tf.BertForMaskedLM(tf.BertConfig(**BERT)),
    "roberta": lambda: tf.RobertaModel(tf.RobertaConfig(**BERT)),
    "xlm-roberta": lambda: tf.XLMRobertaModel(tf.XLMRobertaConfig(**BERT)),
    "electra": lambda: tf.ElectraModel(tf.ElectraConfig(**BERT, embedding_size=16)),
    "albert": lambda: tf.AlbertModel(tf.AlbertConfig(**BERT, embedding_size=16)),
    "distilbert": lambda: tf.DistilBertModel(
        tf.DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=2, hidden_dim=48, max_position_embeddings=40)
    ),
    "mpnet": lambda: tf.MPNetModel(tf.MPNetConfig(**BERT)),
    "roformer": lambda: tf.RoFormerModel(tf.RoFormerConfig(**BERT)),
    "modernbert": lambda: tf.ModernBertModel(
        tf.ModernBertConfig(**BERT, pad_token_id=0, bos_token_id=1, eos_token_id=2, local_attention=6)
    ),
    "t5": lambda: tf.T5EncoderModel(
        tf.T5Config(vocab_size=50, d_model=32, d_kv=16, num_layers=2, num_heads=2, d_ff=48)
    ),
}  # fmt: skip
FAST = ("bert", "bert eager", "bert classifier", "mpnet")


def _mask(kind: str, rows: int, length: int) -> torch.Tensor:
    """1 for real tokens."""
    mask = torch.ones(rows, length, dtype=torch.int64)
    lengths = torch.arange(rows) * 2
    if kind in ("right", "left", "empty rows"):
        mask = (torch.arange(length) < (length - lengths)[:, None].clamp(min=1)).long()
    if kind == "left":
        mask = mask.flip(1)
    if kind == "scattered":
        mask = (torch.rand(rows, length, generator=torch.Generator().manual_seed(0)) > 0.4).long()
        mask[:, -1] = 1
    if kind == "empty rows":
        mask[1] = 0
    return mask


KINDS = ("none", "right", "left", "scattered", "empty rows")


@cache
def _captured(name: str) -> tuple[torch.nn.Module, gw.Program]:
    """A float64 model with scaled weights, and its program."""
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    for parameter in model.parameters():
        parameter.data.mul_(4)
    return model, gw.Pipeline("default").run(gw.capture(model), validate=False).program


def _packed(name: str, least: float = 0.0) -> tuple[torch.nn.Module, gw.Program]:
    model, program = _captured(name)
    return model, gw.Pipeline(f"remove-padding{{least={least}}}").run(program, validate=False).program


def _counts(program: gw.Program) -> int:
    return sum(is_call(node, ops.varlen_attention) for node in program.graph.nodes)


def _check(model: torch.nn.Module, program: gw.Program, kind: str, rows: int, length: int) -> None:
    mask = _mask(kind, rows, length)
    inputs = {"input_ids": torch.randint(1, 49, (rows, length)), "attention_mask": mask}
    with torch.no_grad():
        expected, actual = model(**inputs), program.run(**inputs)
    for key, want in expected.items():
        have = actual[key]
        if want.shape[:2] == mask.shape:
            assert not have[mask == 0].any(), f"{key} at padded positions"
            want, have = want[mask == 1], have[mask == 1]
        # float64 rounding of weights scaled by 4 over two layers
        torch.testing.assert_close(have, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
@pytest.mark.parametrize("least", [0.0, 1.5], ids=["packed", "every token"])
def test_real_positions_are_the_originals(name, least):
    model, program = _packed(name, least)
    assert _counts(program) == 2
    assert not any(is_call(node, torch.ops.aten.scaled_dot_product_attention) for node in program.graph.nodes)
    for kind in KINDS:
        for rows, length in ((2, 7), (4, 9)):
            _check(model, program, kind, rows, length)


def test_each_rewrite_is_exact_once_results_are_zeroed():
    _, program = _captured("bert")
    result = gw.Pipeline("remove-padding{least=0.0}").run(program, validate=True)
    record = result.trace.records[-1]
    validated = record.notes["validated"]
    assert validated["checked"] and all("ZeroPadding" in text for text in validated["unchecked"])
    assert {rewrite.rule for rewrite in record.rewrites} >= {"ZeroPadding", "RemovePadding"}
    assert _counts(result.program) == 2


def test_results_without_padded_positions_need_no_zeros():
    _, program = _captured("bert classifier")
    result = gw.Pipeline("remove-padding{padded=original}").run(program, validate=False)
    assert _counts(result.program) == 2
    assert "ZeroPadding" not in {rewrite.rule for rewrite in result.trace.records[-1].rewrites}


def test_original_values_at_padded_positions_leave_the_encoder_as_it_is():
    _, program = _captured("bert")
    result = gw.Pipeline("remove-padding{padded=original}").run(program, validate=False)
    assert _counts(result.program) == 0
    (miss,) = result.trace.records[-1].misses
    assert "padded positions" in str(miss)


@pytest.mark.parametrize("kind", ["right", "scattered"])
def test_gradients_at_real_tokens(kind):
    model, program = _packed("bert")
    mask = _mask(kind, 3, 8)
    inputs = {"input_ids": torch.randint(1, 49, (3, 8)), "attention_mask": mask}
    weights = torch.randn(3, 8, 32, dtype=torch.float64) * mask[:, :, None]
    found = []
    for run in (model, program.run):
        model.zero_grad()
        (run(**inputs)["last_hidden_state"] * weights).sum().backward()
        found.append({k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None})
    expected, actual = found
    assert expected.keys() == actual.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(actual[key], gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("factor", [1.0, 1e5])
def test_overflows_are_clamped_token_by_token(factor):
    """T5 in float16 looks for infinities in the whole batch; with the larger factor there are some."""
    torch.manual_seed(0)
    model = MODELS["t5"]().eval().half()
    model.encoder.block[0].layer[1].DenseReluDense.wo.weight.data.mul_(factor)
    program = gw.Pipeline("default,remove-padding{least=0.0}").run(gw.capture(model), validate=False).program
    assert _counts(program) == 2
    artifact = gw.target("eager").lower(program)
    for kind in ("right", "left", "scattered"):
        inputs = {"input_ids": torch.randint(0, 50, (4, 9)), "attention_mask": _mask(kind, 4, 9)}
        real = inputs["attention_mask"] == 1
        with torch.no_grad():
            hidden = model(**inputs, output_hidden_states=True).hidden_states[1]
            expected, actual = model(**inputs)[0], artifact(**inputs)[0]
        assert bool((hidden[real].abs() > 6e4).any()) == (factor > 1) and expected[real].isfinite().all()
        torch.testing.assert_close(actual[real], expected[real], rtol=0, atol=4e-3)  # sums in another order


def test_gradient_of_a_position_bias():
    model, program = _packed("mpnet")
    inputs = {"input_ids": torch.randint(1, 49, (3, 8)), "attention_mask": _mask("right", 3, 8)}
    bias = model.encoder.relative_attention_bias.weight
    found = []
    for run in (model, program.run):
        model.zero_grad()
        run(**inputs)["last_hidden_state"][:, 0].square().sum().backward()
        found.append(bias.grad.clone())
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-8)
    assert found[0].any()


def test_attention_dropout_is_drawn_again_in_the_backward_pass():
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 7, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    plan = token_plan(torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool))
    seed = torch.tensor(3)

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return ops.varlen_attention(q, k, v, *plan, None, seed, length=4, scale=0.5, dropout_p=0.5)

    assert torch.autograd.gradcheck(attention, (query, key, value))
    without = ops.varlen_attention(query, key, value, *plan, length=4, scale=0.5)
    assert not torch.allclose(attention(query, key, value), without)


def test_attention_dropout_is_kept_in_training():
    config = tf.BertConfig(**BERT, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.3)
    model = tf.BertModel(config, add_pooling_layer=False).train()
    inputs = {"input_ids": torch.randint(1, 49, (3, 8)), "attention_mask": _mask("right", 3, 8)}
    program, _ = capture_call(model, type(model).forward, Call(inputs))
    program = gw.Pipeline("default,remove-padding{least=0.0}").run(program, validate=False).program
    chances = [bound(node)["dropout_p"] for node in program.graph.nodes if is_call(node, ops.varlen_attention)]
    assert chances == [0.3, 0.3]
    first, second = (program.run_flat(list(inputs.values()))[0] for _ in range(2))
    assert not torch.equal(first, second)
    (first[:, 0, 0] * torch.randn(3)).sum().backward()
    assert all(layer.attention.self.query.weight.grad.any() for layer in model.encoder.layer)


def test_a_plan_keeps_what_pays():
    keep = _mask("right", 4, 8).bool()  # lengths 8, 6, 4, 2
    tokens, offsets, keys, _ = token_plan(keep)
    assert offsets.tolist() == [0, 8, 14, 18, 20]
    assert torch.equal(tokens, keep.flatten().nonzero().flatten()) and torch.equal(keys, torch.arange(20))
    for options in ({"least": 0.4}, {"per_row": 3.0}):
        tokens, offsets, keys, key_offsets = token_plan(keep, **options)
        assert tokens.numel() == 32 and keys.numel() == 20
        assert offsets.tolist() == [0, 8, 16, 24, 32] and key_offsets.tolist() == [0, 8, 14, 18, 20]


def test_a_plan_with_first_tokens_computes_rows_without_tokens():
    keep = torch.tensor([[False, True, False], [False, False, False], [True, False, False]])
    tokens, offsets, keys, key_offsets = token_plan(keep, first=True)
    assert tokens.tolist() == [0, 1, 3, 4, 5, 6] and offsets.tolist() == [0, 2, 5, 6]
    assert keys.tolist() == [1, 5] and key_offsets.tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: tf.ViTModel(tf.ViTConfig(**{k: v for k, v in SIZE.items() if k != "vocab_size"}, image_size=16,
                                          patch_size=8)), "no mask of padding"),
        (lambda: tf.GPT2Model(tf.GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2, n_positions=40)),
         "padded positions"),
        (lambda: tf.DebertaModel(tf.DebertaConfig(**BERT)), "padding"),
    ],
    ids=["vit", "gpt2", "deberta"],
)  # fmt: skip
def test_other_models_stay_as_they_are_and_say_why(build, reason):
    program = gw.Pipeline("default").run(gw.capture(build().eval()), validate=False).program
    result = gw.Pipeline([RemovePadding()]).run(program, validate=False)
    assert not result.trace.records[-1].rewrites
    assert result.trace.records[-1].misses and all(reason in str(miss) for miss in result.trace.records[-1].misses)


def test_tokens_mixed_outside_of_attention_are_not_packed():
    class Mixing(torch.nn.Module):
        """Attention over padded rows, then a mean over all positions."""

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            y = torch.nn.functional.scaled_dot_product_attention(x, x, x, mask[:, None, None, :])
            return y.mean(2)

    inputs = (torch.randn(3, 2, 5, 4), _mask("right", 3, 5).bool())
    program = gw.Pipeline("default").run(gw.capture(Mixing(), inputs), validate=False).program
    region, _ = find_region(program)
    result = gw.Pipeline([RemovePadding()]).run(program, validate=False)
    assert region is None and not result.trace.records[-1].rewrites


def test_programs_with_packed_tokens_are_saved(tmp_path):
    model, program = _packed("bert")
    program.save(tmp_path)
    _check(model, gw.Program.load(tmp_path), "right", 3, 8)


@pytest.mark.parametrize("grad", [False, True])
def test_an_optimized_model_leaves_padding_out(grad):
    model = MODELS["bert"]().eval()
    fast = gw.optimize(model, pipeline="default,remove-padding{least=0.0}")
    inputs = {"input_ids": torch.randint(1, 49, (4, 9)), "attention_mask": _mask("right", 4, 9)}
    with torch.set_grad_enabled(grad):
        fast(**inputs)
        result, expected = fast(**inputs).last_hidden_state, model(**inputs).last_hidden_state
    dispatcher = dispatcher_of(fast)
    assert dispatcher.served == 1 and not dispatcher.reasons
    real = inputs["attention_mask"] == 1
    torch.testing.assert_close(result[real], expected[real], rtol=1e-4, atol=1e-5)
    assert not result[~real].any()


def test_merged_projections_are_packed():
    """Parts of a merged projection are strided, and how many tokens there are is not known."""
    model, program = _captured("bert")
    pipeline = "encoder-fastpath{merge=always},remove-padding{least=0.0}"
    packed = gw.Pipeline(pipeline).run(program, validate=False).program
    assert _counts(packed) == 2
    linears, before = (sum(is_call(n, torch.ops.aten.linear) for n in p.graph.nodes) for p in (packed, program))
    assert linears == before - 4  # one for three in each of two layers
    for kind in ("right", "scattered"):
        _check(model, packed, kind, 4, 9)
