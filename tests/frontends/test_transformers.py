"""Every kind of transformers model, without inputs given, replayed at other sizes: the same numbers as the model."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from graphwright.frontends.capture import capture
from graphwright.frontends.tasks import task_of
from graphwright.ir.errors import InputError
from graphwright.ir.symbols import parse_size

PLAIN = {
    "bert": "batch sequence",
    "distilbert": "batch sequence",
    "albert": "batch sequence",
    "roberta": "batch sequence",
    "deberta-v2": "batch sequence",
    "gpt2": "batch sequence",
    "llama": "batch sequence",
    "qwen2": "batch sequence",
    "mistral": "batch sequence",
    "gpt_neox": "batch sequence",
    "opt": "batch sequence",
    "bloom": "batch sequence",
    "t5": "batch sequence decoder_sequence",
    "bart": "batch sequence decoder_sequence",
    "vit": "batch",
    "clip": "batch sequence",
    "wav2vec2": "batch samples",
    "whisper": "batch decoder_sequence",
    "resnet": "batch height width",
}
WITH_PAST = {
    "gpt2": "text-generation",
    "llama": "text-generation",
    "qwen2": "text-generation",
    "mistral": "text-generation",
    "gpt_neox": "text-generation",
    "opt": "text-generation",
    "bloom": "text-generation",
    "t5": "text2text-generation",
    "bart": "text2text-generation",
    "whisper": "automatic-speech-recognition",
}
SIZES = [
    {"batch": 1, "sequence": 1, "decoder_sequence": 1, "past_sequence": 1, "samples": 401, "height": 33, "width": 64},
    {"batch": 4, "sequence": 9, "decoder_sequence": 1, "past_sequence": 2, "samples": 450, "height": 48, "width": 40},
    {"batch": 2, "sequence": 1, "decoder_sequence": 5, "past_sequence": 6, "samples": 512, "height": 64, "width": 80},
]


def resized(program, sizes):
    """Random leaves for the program, with its dimensions at `sizes`."""
    random = torch.Generator().manual_seed(1)
    symbols = {dim.symbol: sizes[dim.name] for dim in program.dims}
    leaves = []
    for node, leaf in zip(program.placeholders, program.example.leaves(), strict=True):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            shape = [parse_size(str(size), symbols) for size in value.shape]
            if value.dtype.is_floating_point:
                leaf = torch.randn(shape, dtype=value.dtype, generator=random)
            else:
                leaf = torch.randint(3, 90, shape, generator=random)
                leaf = leaf % 4 // 3 ^ 1 if "mask" in node.name else leaf
        leaves.append(leaf)
    return leaves


def call(function, program, leaves):
    """Call with copies: caches are changed by a call."""
    copies = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    args, kwargs = pytree.tree_unflatten(copies, program.signature.in_spec)
    with torch.no_grad():
        return function(*args, **kwargs)


def assert_replays(model, program, sizes):
    leaves = resized(program, sizes)
    ours, theirs = call(program.run, program, leaves), call(model, program, leaves)
    assert type(ours) is type(theirs)
    pairs = list(zip(pytree.tree_leaves(ours), pytree.tree_leaves(theirs), strict=True))
    assert pairs
    for mine, reference in pairs:
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("name", PLAIN)
def test_replays_at_other_sizes(captured, name):
    model, program = captured(name)
    assert " ".join(dim.name for dim in program.dims) == PLAIN[name]
    assert len(program.nodes) > 50
    for sizes in SIZES:
        assert_replays(model, program, sizes)


@pytest.mark.parametrize("name", WITH_PAST)
def test_replays_with_a_cache(captured, name):
    model, program = captured(name, WITH_PAST[name] + "-with-past")
    assert {"batch", "past_sequence"} <= {dim.name for dim in program.dims}
    for sizes in SIZES:
        assert_replays(model, program, sizes)


def test_a_returned_cache_continues_in_the_model(captured):
    model, program = captured("llama", "text-generation-with-past")
    ids = torch.arange(3, 21).reshape(2, 9)
    with torch.no_grad():
        past = model(ids[:, :4], use_cache=True).past_key_values
        step = program.run(input_ids=ids[:, 4:7], attention_mask=torch.ones_like(ids[:, :7]), past_key_values=past)
        rest = model(ids[:, 7:], past_key_values=step.past_key_values)
        torch.testing.assert_close(rest.logits, model(ids).logits[:, 7:], rtol=0, atol=1e-9)


def test_a_cache_longer_than_the_window_is_refused(captured):
    model, program = captured("mistral", "text-generation-with-past")
    ids = torch.full((2, 20), 5)
    with torch.no_grad():
        past = model(ids, use_cache=True).past_key_values
    with pytest.raises(InputError, match=r"past_sequence \+ sequence < 31"):
        program.run(input_ids=ids, attention_mask=torch.ones(2, 40, dtype=torch.long), past_key_values=past)


def test_the_mask_covers_past_and_present(captured):
    _, program = captured("gpt2", "text-generation-with-past")
    values = dict(program.example.kwargs)
    values["attention_mask"] = values["attention_mask"][:, :-1]
    with pytest.raises(InputError, match=r"past_sequence \+ sequence"):
        program.run(**values)


def test_source_and_modules_are_the_models_own(captured):
    _, program = captured("bert")
    calls = [node for node in program.nodes if node.op == "call_function" and node.meta.get("stack_trace")]
    assert calls
    assert not any("graphwright" in node.meta["stack_trace"] or "shim" in node.meta["stack_trace"] for node in calls)
    classes = {entry[1] for node in calls for entry in node.meta["nn_module_stack"].values()}
    assert "transformers.models.bert.modeling_bert.BertModel" in classes
    paths = {entry[0] for node in calls for entry in node.meta["nn_module_stack"].values()}
    assert "encoder.layer.1.attention.self" in paths


@pytest.mark.parametrize("name", ["bert", "llama", "wav2vec2"])
def test_the_model_is_untouched(build, name):
    model = build(name)
    config, state = model.config.to_dict(), {key: value.clone() for key, value in model.state_dict().items()}
    attributes = {path: dict(vars(module)) for path, module in model.named_modules()}
    random, cls = torch.get_rng_state(), type(model)
    capture(model)
    assert type(model) is cls
    assert model.config.to_dict() == config
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    for path, module in model.named_modules():
        assert vars(module).keys() == attributes[path].keys()
        assert all(vars(module)[key] is value for key, value in attributes[path].items())


def test_weights_are_shared(captured):
    model, program = captured("bert")
    assert program.state["embeddings.word_embeddings.weight"] is model.embeddings.word_embeddings.weight


def test_train_mode_keeps_dropout(build):
    program = capture(build("distilbert").train())
    assert program.training
    drops = [node for node in program.nodes if node.target is torch.ops.aten.dropout.default]
    assert drops
    assert all(node.args[2] for node in drops)
    assert not capture(build("distilbert")).training


def test_tasks(build):
    found = {name: task_of(build(name)) for name in ("bert", "distilbert", "roberta", "gpt2", "t5", "whisper", "vit")}
    assert found == {
        "bert": "feature-extraction",
        "distilbert": "fill-mask",
        "roberta": "text-classification",
        "gpt2": "text-generation",
        "t5": "text2text-generation",
        "whisper": "automatic-speech-recognition",
        "vit": "image-classification",
    }


def test_a_task_of_another_class_is_refused(build):
    with pytest.raises(InputError, match=r"(?s)BertModel cannot be captured for 'fill-mask'.*feature-extraction"):
        capture(build("bert"), task="fill-mask")
    with pytest.raises(InputError, match="has no key/value cache"):
        capture(build("bert"), task="feature-extraction-with-past")


def test_own_inputs(captured):
    model, _ = captured("gpt2")
    ids = torch.arange(3, 17).reshape(1, 14)
    program = capture(model, {"input_ids": ids})
    assert [dim.name for dim in program.dims] == ["batch", "sequence"]
    with torch.no_grad():
        ours, theirs = program.run(input_ids=ids[:, :5]), model(input_ids=ids[:, :5])
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-12)
    assert type(ours.past_key_values) is type(theirs.past_key_values)


def test_a_loop_over_experts_is_batched(caplog):
    transformers = pytest.importorskip("transformers")
    config = transformers.MixtralConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
        vocab_size=99, num_local_experts=4,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).eval().double()
    model.set_experts_implementation("eager")
    with caplog.at_level("WARNING", logger="graphwright"):
        program = capture(model)
    assert "captured with batched experts" in caplog.text
    assert model.config._experts_implementation == "eager"
    for sizes in SIZES:
        assert_replays(model, program, sizes)


def test_decoders_without_a_head_take_no_cache(build):
    transformers = pytest.importorskip("transformers")
    program = capture(transformers.LlamaModel(build("llama").config))
    assert program.example.kwargs["use_cache"] is False
    assert "use_cache" not in capture(build("bert")).example.kwargs


def test_inputs_that_no_config_tells():
    transformers = pytest.importorskip("transformers")
    from graphwright.ir.errors import CaptureError

    config = transformers.LxmertConfig(
        hidden_size=32, num_attention_heads=4, intermediate_size=64, vocab_size=99, l_layers=1, x_layers=1, r_layers=1
    )
    with pytest.raises(CaptureError, match=r"(?s)fails on the example inputs.*visual_feats.*capture\(model, inputs\)"):
        capture(transformers.LxmertModel(config))


def test_several_end_tokens_are_all_special():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=6,
        eos_token_id=[2, 3],
    )  # fmt: skip
    ids = capture(LlamaForCausalLM(config).eval()).example.kwargs["input_ids"]
    assert not torch.isin(ids, torch.tensor([2, 3])).any()
