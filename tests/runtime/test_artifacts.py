"""`export` and `load_artifact`: the exported model behaves like the one it came from."""

import json

import pytest
import torch

import graphwright as gw

SMALL = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "GPT2LMHeadModel": {**SMALL, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "LlamaForCausalLM": {**SMALL, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                         "num_key_value_heads": 1, "intermediate_size": 48},
    "T5ForConditionalGeneration": {"vocab_size": 60, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2,
                                   "num_heads": 2, "pad_token_id": 0, "decoder_start_token_id": 0},
    "WhisperForConditionalGeneration": {
        **SMALL, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_mel_bins": 8,
        "max_source_positions": 16, "max_target_positions": 32, "decoder_start_token_id": 1,
        "suppress_tokens": None, "begin_suppress_tokens": None},
    "BertForSequenceClassification": {**SMALL, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                                      "intermediate_size": 48},
}  # fmt: skip
SEARCHES = ({"do_sample": False}, {"num_beams": 3, "do_sample": False}, {"do_sample": True, "top_k": 20})


def build(name):
    import transformers

    cls = getattr(transformers, name)
    torch.manual_seed(0)
    model = cls(cls.config_class(**CONFIGS[name])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)
    return model


def load(folder):
    """With one thread: on a busy machine, threads that wait for each other take most of the time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return gw.load_artifact(folder, session_options=options)


def prompt(name):
    if "Whisper" in name:
        return {"input_features": torch.randn(3, 8, 32, generator=torch.Generator().manual_seed(1))}
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, :3] = mask[2, :1] = 0
    return {
        "input_ids": torch.randint(3, 60, (3, 7), generator=torch.Generator().manual_seed(2)),
        "attention_mask": mask,
    }


@pytest.mark.parametrize(
    "name", ["GPT2LMHeadModel", "LlamaForCausalLM", "T5ForConditionalGeneration", "WhisperForConditionalGeneration"]
)
def test_same_tokens(name, tmp_path):
    """Greedy, beams and sampling of a batch padded on the left give what the unmodified model gives."""
    model = build(name)
    gw.export(model, tmp_path / "out")
    loaded = load(tmp_path / "out")
    assert isinstance(loaded, type(model)) and all(parameter.is_meta for parameter in loaded.parameters())
    for options in SEARCHES:
        results = []
        for candidate in (model, loaded):
            torch.manual_seed(3)
            results.append(candidate.generate(**prompt(name), max_new_tokens=9, **options))
        assert torch.equal(*results), options


def test_going_on_from_a_cache(tmp_path):
    model = build("LlamaForCausalLM")
    gw.export(model, tmp_path / "out")
    loaded = gw.load_artifact(tmp_path / "out")
    inputs = prompt("Llama")
    first = loaded(**{key: value[:, :4] for key, value in inputs.items()})
    rest = loaded(inputs["input_ids"][:, 4:], inputs["attention_mask"], past_key_values=first.past_key_values)
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    expected = model(**inputs, position_ids=positions).logits[:, 4:]
    torch.testing.assert_close(rest.logits, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(gw.InputError, match="cannot be passed to an exported model"):
        loaded(inputs["input_ids"], past_key_values=model(**inputs).past_key_values)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM"])
def test_caches_in_place(name, tmp_path):
    """In the dialect of ONNX Runtime, steps append to one cache: same tokens, and the memory stays where it is."""
    model = build(name)
    gw.export(model, tmp_path / "out", "onnx{dialect=ort}")
    loaded = load(tmp_path / "out")
    for options in SEARCHES:
        results = []
        for candidate in (model, loaded):
            torch.manual_seed(3)
            results.append(candidate.generate(**prompt(name), max_new_tokens=9, **options))
        assert torch.equal(*results), options
    inputs = prompt(name)
    first = loaded(**{key: value[:, :4] for key, value in inputs.items()}).past_key_values
    before = {key: tensor.data_ptr() for key, tensor in first.tensors.items()}
    rest = loaded(inputs["input_ids"][:, 4:], inputs["attention_mask"], past_key_values=first)
    assert rest.past_key_values is first and first.get_seq_length() == 7
    assert before == {key: tensor.data_ptr() for key, tensor in first.tensors.items()}
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    expected = model(**inputs, position_ids=positions).logits[:, 4:]
    torch.testing.assert_close(rest.logits, expected, rtol=1e-4, atol=1e-4)


def test_a_cache_in_place_grows_and_is_cropped():
    """Beyond its room a cache moves, with what it holds; what is cropped is written over."""
    from graphwright.runtime.artifacts.cache import ROOM, RoomyCache

    cache = RoomyCache({"past_key_values.0.key": torch.zeros(2, 1, 0, 4)})
    cache.reserve(3)
    (tensor,) = cache.tensors.values()
    assert tensor.shape == (2, 1, ROOM, 4)
    tensor[:, :, :3] = 1
    cache.length = 3
    cache.crop(-1)
    cache.reserve(ROOM + 1)
    (tensor,) = cache.tensors.values()
    assert tensor.shape == (2, 1, 2 * ROOM, 4) and tensor[:, :, :2].eq(1).all() and tensor[:, :, 2:].eq(0).all()


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "WhisperForConditionalGeneration"])
def test_beams_share_the_keys_of_their_text(name, tmp_path):
    """The encoder's caches keep one row for each text; tokens are those of the unmodified model."""
    model = build(name)
    gw.export(model, tmp_path / "out", "onnx{dialect=ort}")
    loaded = load(tmp_path / "out")
    for options in ({"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}):
        results = [m.generate(**prompt(name), max_new_tokens=9, do_sample=False, **options) for m in (model, loaded)]
        assert torch.equal(*results), options
    first = next(iter(prompt(name).values())).repeat_interleave(2, dim=0)
    main = "input_features" if "Whisper" in name else "input_ids"
    ids = torch.ones(6, 1, dtype=torch.long)
    cache = loaded(**{main: first}, decoder_input_ids=ids).past_key_values
    assert {n: t.shape[0] for n, t in cache.tensors.items()} == {n: 3 if ".encoder." in n else 6 for n in cache.tensors}
    cache.batch_select_indices(torch.tensor([1, 4]))
    assert {tensor.shape[0] for tensor in cache.tensors.values()} == {2}


def test_equal_rows_are_found():
    from graphwright.runtime.artifacts.steps import distinct_rows

    ids, mask = torch.tensor([[1, 2], [1, 2], [3, 2], [3, 2]]), torch.tensor([[1, 1], [1, 1], [1, 1], [0, 1]])
    kept, back = distinct_rows({"input_ids": ids, "attention_mask": mask})
    assert kept.tolist() == [0, 2, 3] and back.tolist() == [0, 0, 1, 2]
    assert distinct_rows({"input_ids": ids[1:3]}) is None and distinct_rows({"input_ids": ids[:1]}) is None


def test_last_logits(tmp_path):
    """Only the last position's logits, in every case that is compared; the folder is verified the same way."""
    from graphwright.runtime.artifacts.export import verify_bundle

    model = build("LlamaForCausalLM")
    done = gw.export(model, tmp_path / "out", last_logits=True)
    shapes = {row.shape[1] for row in done.comparisons["model"].rows if row.output == "logits"}
    assert shapes == {1}
    loaded = load(tmp_path / "out")
    options = {"max_new_tokens": 9, "do_sample": False}
    assert torch.equal(*(m.generate(**prompt("Llama"), **options) for m in (model, loaded)))
    assert all(found.ok for found in verify_bundle(model, loaded.bundle).values())
    with pytest.raises(gw.InputError, match="cannot be captured with the last logits"):
        gw.export(build("BertForSequenceClassification"), tmp_path / "other", last_logits=True)


def test_outputs_are_bound_to_memory(tmp_path):
    """Inputs and outputs of a session are bound: what is written to is the tensor that was given."""
    gw.export(build("BertForSequenceClassification"), tmp_path / "out", verify=False)
    part = gw.load_artifact(tmp_path / "out").bundle.only
    inputs = {key: value for key, value in prompt("Bert").items() if key in part.input_names}
    inputs |= {key: torch.zeros(3, 7, dtype=torch.long) for key in part.input_names if key not in inputs}
    expected = part.run(**inputs)["logits"]
    memory = torch.zeros_like(expected)
    assert part.file.run(inputs, [], {"logits": memory}) == []
    assert torch.equal(memory, expected) and expected.any()


def test_sentence_embeddings(tmp_path):
    """Pooling and normalisation are in the file; a mask that is not given is all ones."""
    import transformers

    from graphwright.frontends.sentences import SentenceEmbedder

    config = transformers.BertConfig(**CONFIGS["BertForSequenceClassification"])
    embedder = SentenceEmbedder(transformers.BertModel(config).eval(), ("mean",)).eval()
    gw.export(embedder, tmp_path / "out", task="sentence-similarity")
    loaded = gw.load_artifact(tmp_path / "out")
    assert isinstance(loaded, transformers.BertModel)
    ids = prompt("Bert")["input_ids"]
    found, expected = loaded(input_ids=ids), embedder(ids, torch.ones_like(ids))
    for name in ("token_embeddings", "sentence_embedding"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["sentence_embedding"].norm(dim=-1), torch.ones(3))


def test_edits_run_last_and_are_verified(tmp_path):
    """Passes on onnx-graphsurgeon's graph: shown as a diff, compared with the model, refused where they are wrong."""
    pytest.importorskip("onnx_graphsurgeon")

    def rename(graph):
        for node in graph.nodes:
            node.name = f"my.{node.name}"

    def square(graph):
        node = next(node for node in graph.nodes if node.op == "Tanh")
        node.op = "Abs"

    model = build("BertForSequenceClassification")
    done = gw.export(model, tmp_path / "out", edits=[rename])
    assert done.ok and "model edited" in str(done)
    names = [node.name for node in gw.onnx.to_graphsurgeon(tmp_path / "out" / "model.onnx").nodes]
    assert names and all(name.startswith("my.") for name in names)
    with pytest.raises(gw.MismatchError):
        gw.export(model, tmp_path / "wrong", edits=[square])
    assert not (tmp_path / "wrong").exists()


def test_classes_and_options_are_passed_through(tmp_path):
    import onnxruntime

    model = build("BertForSequenceClassification")
    done = gw.export(model, tmp_path / "out", task="text-classification")
    assert done.ok and {row.case for row in done.comparisons["model"].rows} >= {"left padding", "batch_size=1"}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    loaded = gw.load_artifact(tmp_path / "out", providers=["CPUExecutionProvider"], session_options=options)
    session = loaded.bundle.only.session
    assert session.get_session_options().intra_op_num_threads == 1
    inputs = prompt("Bert")
    result, expected = loaded(**inputs), model(**inputs)
    assert type(result) is type(expected)
    torch.testing.assert_close(result.logits, expected.logits, rtol=1e-5, atol=1e-5)


def test_a_mismatch_writes_nothing(tmp_path, monkeypatch):
    from graphwright.lowering.emitters import Emitter
    from graphwright.lowering.onnx.table import load_table

    wrong = Emitter(lambda b, self, approximate: b.op("Relu", self))
    monkeypatch.setitem(load_table().emitters, torch.ops.aten.gelu.default, [wrong])
    with pytest.raises(gw.MismatchError):
        gw.export(build("BertForSequenceClassification"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_folder_is_refused(tmp_path):
    gw.export(build("BertForSequenceClassification"), tmp_path / "out", verify=False)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["task"] == "text-classification" and set(manifest["files"]) >= {"model.onnx", "config.json"}
    (tmp_path / "out" / "config.json").write_text("{}")
    with pytest.raises(gw.GraphwrightError, match="truncated or was changed"):
        gw.load_artifact(tmp_path / "out")


def test_any_module(tmp_path):
    """A model that is not from transformers gives a plain artifact."""

    class Model(torch.nn.Module):
        def forward(self, x):
            return x.softmax(-1)

    gw.export(Model(), tmp_path / "out", inputs={"x": torch.randn(3, 5)})
    loaded = gw.load_artifact(tmp_path / "out")
    x = torch.randn(2, 5)
    torch.testing.assert_close(loaded.run(x=x)["output"], x.softmax(-1))
