"""Parts of models by task: files, names and dimensions as Optimum has them."""

import pytest
import torch

from graphwright.frontends.parts import full_task, parts
from graphwright.frontends.sentences import SentenceEmbedder, load_sentence_embedder
from graphwright.ir.errors import FileFormatError, InputError, UnsupportedError
from graphwright.lowering.interface import Interface

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 60}
WIDE = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 60}  # fmt: skip


def build(name, **config):
    import transformers

    cls = getattr(transformers, name)
    torch.manual_seed(0)
    return cls(cls.config_class(**config)).eval()


def ports(part):
    interface = Interface.of(part.capture())
    return [{port.name: port.shape for port in side} for side in (interface.inputs, interface.outputs)]


def test_encoder():
    model = build("BertModel", **SMALL)
    (part,) = parts(model)
    inputs, outputs = ports(part)
    tokens = ("batch_size", "sequence_length")
    assert inputs == dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), tokens)
    assert outputs == {"last_hidden_state": (*tokens, 32)}


@pytest.mark.parametrize(
    ("name", "config", "task", "outputs"),
    [
        ("BertForMaskedLM", SMALL, "fill-mask", ["logits"]),
        ("BertForSequenceClassification", SMALL, "text-classification", ["logits"]),
        ("BertForTokenClassification", SMALL, "token-classification", ["logits"]),
        ("BertForQuestionAnswering", SMALL, "question-answering", ["start_logits", "end_logits"]),
        ("ViTForImageClassification", {**SMALL, "image_size": 16, "patch_size": 4}, "image-classification", ["logits"]),
    ],
)
def test_tasks(name, config, task, outputs):
    model = build(name, **{key: value for key, value in config.items() if key != "vocab_size" or "ViT" not in name})
    assert full_task(model, None) == task
    (part,) = parts(model)
    assert list(ports(part)[1]) == outputs


@pytest.mark.parametrize(
    ("name", "task"),
    [("Wav2Vec2ForCTC", "automatic-speech-recognition"), ("Wav2Vec2ForSequenceClassification", "audio-classification")],
)
def test_audio(name, task):
    config = {**SMALL, "conv_dim": (8, 8), "conv_stride": (5, 2), "conv_kernel": (10, 3),
              "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}  # fmt: skip
    model = build(name, **config)
    assert full_task(model, None) == task
    (part,) = parts(model)
    assert part.inputs.names["input_values"] == ("batch", "samples")


def test_generation_with_past():
    (part,) = parts(build("LlamaForCausalLM", **SMALL, num_key_value_heads=1))
    inputs, outputs = ports(part)
    total = "past_sequence_length + sequence_length"
    assert inputs["attention_mask"] == ("batch_size", total)
    assert inputs["position_ids"] == ("batch_size", "sequence_length")
    assert inputs["past_key_values.0.key"] == ("batch_size", 1, "past_sequence_length", 16)
    assert outputs["present.0.value"] == ("batch_size", 1, total, 16)


def test_seq2seq():
    found = {part.name: ports(part) for part in parts(build("BartForConditionalGeneration", **WIDE))}
    assert list(found) == ["encoder_model", "decoder_model", "decoder_with_past_model"]
    hidden = ("batch_size", "encoder_sequence_length", 32)
    assert found["encoder_model"][1] == {"last_hidden_state": hidden}
    inputs, outputs = found["decoder_model"]
    assert inputs["encoder_hidden_states"] == hidden
    assert list(inputs) == ["input_ids", "encoder_hidden_states", "encoder_attention_mask"]
    assert "present.0.encoder.key" in outputs
    inputs, _ = found["decoder_with_past_model"]
    assert inputs["past_key_values.0.decoder.key"][2] == "past_decoder_sequence_length"
    assert inputs["past_key_values.0.encoder.key"][2] == "encoder_sequence_length"


def test_without_past():
    model = build("BartForConditionalGeneration", **WIDE)
    found = parts(model, "text2text-generation")
    assert [part.name for part in found] == ["encoder_model", "decoder_model"]
    assert list(ports(found[1])[1]) == ["logits"]


def test_zero_shot_has_any_number_of_images_and_texts():
    vision = {**SMALL, "image_size": 16, "patch_size": 4}
    model = build("CLIPModel", text_config=SMALL, vision_config=vision, projection_dim=16)
    (part,) = parts(model, "zero-shot-image-classification")
    inputs, outputs = ports(part)
    assert inputs["pixel_values"][0] == "image_batch_size" and inputs["input_ids"][0] == "text_batch_size"
    assert outputs["logits_per_image"] == ("image_batch_size", "text_batch_size")


def test_another_task_is_refused():
    with pytest.raises(InputError, match="its task is 'feature-extraction'"):
        parts(build("BertModel", **SMALL), "text-generation")


@pytest.mark.parametrize("kind", ["mean", "cls", "max", "mean_sqrt_len", "last"])
def test_pooling_ignores_padding(kind):
    embedder = SentenceEmbedder(build("BertModel", **SMALL), (kind,), normalize=False)
    ids = torch.randint(5, 50, (2, 6))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    short = embedder(ids[1:, :4], mask[1:, :4])["sentence_embedding"]
    torch.testing.assert_close(embedder(ids, mask)["sentence_embedding"][1:], short, rtol=1e-5, atol=1e-5)


def test_sentence_folder(tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    types = [("models.Transformer", ""), ("models.Pooling", "1_Pooling"), ("models.Normalize", "2_Normalize")]
    write(tmp_path / "modules.json", [{"type": f"sentence_transformers.{kind}", "path": path} for kind, path in types])
    write(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True})
    embedder = load_sentence_embedder(tmp_path, build("BertModel", **SMALL))
    assert embedder.pooling == ("cls", "max") and embedder.normalize
    (part,) = parts(embedder)
    _, outputs = ports(part)
    assert outputs["sentence_embedding"] == ("batch_size", 64)
    write(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_weightedmean_tokens": True})
    with pytest.raises(UnsupportedError, match="weightedmean"):
        load_sentence_embedder(tmp_path, embedder.transformer)
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(FileFormatError):
        load_sentence_embedder(tmp_path, embedder.transformer)


def write(path, value):
    import json

    path.write_text(json.dumps(value))
