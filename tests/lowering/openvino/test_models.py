"""Models on OpenVINO's CPU plugin against the originals: several sizes, paddings, caches empty and filled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("openvino")

import graphwright as gw  # noqa: E402
from graphwright.ir.errors import GraphwrightError  # noqa: E402
from graphwright.lowering.artifact import load_artifact  # noqa: E402

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = SMALL | {"vocab_size": 50, "attn_implementation": "eager"}
PAST = "text-generation-with-past"


def build(name: str) -> Any:
    """A small model with weights large enough for errors to show."""
    torch.manual_seed(0)
    t = transformers
    decoder = TEXT | {"num_key_value_heads": 2}
    layers = {"decoder_layers": 1, "encoder_layers": 1, "decoder_attention_heads": 4, "encoder_attention_heads": 4}
    seq2seq = layers | {"d_model": 32, "decoder_ffn_dim": 64, "encoder_ffn_dim": 64, "vocab_size": 50}
    vision = SMALL | {"image_size": 16, "patch_size": 8, "attn_implementation": "eager"}
    makers = {
        "bert": lambda: t.BertModel(t.BertConfig(**TEXT)),
        "roberta": lambda: t.RobertaForSequenceClassification(t.RobertaConfig(**TEXT)),
        "distilbert": lambda: t.DistilBertModel(
            t.DistilBertConfig(dim=32, n_layers=1, n_heads=4, hidden_dim=64, vocab_size=50)
        ),
        "deberta": lambda: t.DebertaV2Model(t.DebertaV2Config(**TEXT)),
        "deberta-v1": lambda: t.DebertaModel(
            t.DebertaConfig(**TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"], max_position_embeddings=64)
        ),
        "mpnet": lambda: t.MPNetModel(t.MPNetConfig(**TEXT)),
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=50)),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**decoder)),
        "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**decoder, head_dim=8)),
        "bloom": lambda: t.BloomForCausalLM(t.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=50)),
        "opt": lambda: t.OPTForCausalLM(
            t.OPTConfig(hidden_size=32, num_hidden_layers=2, ffn_dim=64, num_attention_heads=4, vocab_size=50,
                        word_embed_proj_dim=32, max_position_embeddings=64)
        ),
        "bart": lambda: t.BartModel(t.BartConfig(**seq2seq)),
        "whisper": lambda: t.WhisperModel(
            t.WhisperConfig(**seq2seq, num_mel_bins=8, max_source_positions=12, pad_token_id=0, bos_token_id=1,
                            eos_token_id=2, decoder_start_token_id=1)
        ),
        "vit": lambda: t.ViTModel(t.ViTConfig(**vision)),
        "swin": lambda: t.SwinModel(
            t.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4)
        ),
        "resnet": lambda: t.ResNetModel(t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
        "wav2vec2": lambda: t.Wav2Vec2Model(
            t.Wav2Vec2Config(**SMALL, vocab_size=50, conv_dim=(16, 16), conv_stride=(5, 2), conv_kernel=(10, 3),
                             num_feat_extract_layers=2, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
        ),
    }  # fmt: skip
    model = makers[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model.eval()


TASKS = dict.fromkeys(("gpt2", "llama", "gemma2", "bloom", "opt"), PAST)
SLOW = (
    "roberta",
    "distilbert",
    "deberta",
    "deberta-v1",
    "mpnet",
    "gpt2",
    "gemma2",
    "bloom",
    "opt",
    "whisper",
    "swin",
    "wav2vec2",
)


@pytest.mark.parametrize("name", ["bert", "llama", "bart", "vit", "resnet"])
def test_computes_what_the_model_computes(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_more_models_compute_what_they_should(name: str) -> None:
    check(name)


def check(name: str) -> None:
    """The default tolerance of float32, on all the sizes and paddings that `compare` makes."""
    model = build(name)
    program = gw.capture(model, task=TASKS.get(name))
    fused = gw.Pipeline("default").run(program).program
    artifact = gw.target("openvino").lower(fused)
    assert gw.compare(program, artifact).ok
    assert (artifact.variables is not None) == (name in TASKS)


def test_a_stateful_decoder_has_the_inputs_that_openvino_genai_expects() -> None:
    artifact = gw.target("openvino").lower(gw.capture(build("llama"), task=PAST))
    assert {port.get_any_name() for port in artifact.model.inputs} == {"input_ids", "attention_mask", "beam_idx"}
    assert [port.get_any_name() for port in artifact.model.outputs] == ["logits"]
    assert len(artifact.model.get_sinks()) == 4


def test_the_cache_stays_outside_where_that_is_wanted() -> None:
    artifact = gw.target("openvino{stateful=no}").lower(gw.capture(build("llama"), task=PAST))
    assert artifact.variables is None and "past_key_values.0.key" in {
        port.get_any_name() for port in artifact.model.inputs
    }


def test_decoding_step_by_step_inside_the_model() -> None:
    """The variables grow from step to step and follow `beam_idx`; logits are those of the whole text."""
    import numpy as np
    import openvino as ov

    model = build("llama")
    request = gw.target("openvino").lower(gw.capture(model, task=PAST)).request
    ids = torch.randint(0, 50, (2, 9))
    beams = [np.arange(2, dtype=np.int32)] * 3 + [np.array([1, 0], dtype=np.int32)]
    cuts = [(0, 4), (4, 5), (5, 7), (7, 9)]
    for (start, stop), beam in zip(cuts, beams, strict=True):
        feeds = {"input_ids": ids[:, start:stop].numpy(), "attention_mask": np.ones((2, stop), np.int64)}
        held = {name: ov.Tensor(np.ascontiguousarray(value)) for name, value in feeds.items()}
        held["beam_idx"] = ov.Tensor(beam)
        for name, value in held.items():
            request.set_tensor(name, value)
        request.infer()
    swapped = torch.cat([ids[[1, 0], :7], ids[:, 7:]], 1)  # the last step continued the other row
    with torch.no_grad():
        want = model(input_ids=swapped).logits[:, 7:]
    have = torch.from_numpy(request.get_tensor("logits").data.copy())
    torch.testing.assert_close(have, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("weights", "allowed", "smaller"), [("f16", 2e-2, 0.7), ("i8", 0.1, 0.45), ("u4", 1.0, 0.35)])
def test_compressed_weights(weights: str, allowed: float, smaller: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(**TEXT | {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 200})
    program = gw.capture(transformers.BertModel(config).eval())
    sizes = {}
    results = {}
    for kind in ("", weights):
        artifact = gw.target(f"openvino{{weights={kind}}}" if kind else "openvino").lower(program)
        artifact.save(tmp_path / (kind or "plain"))
        sizes[kind] = (tmp_path / (kind or "plain") / "openvino_model.bin").stat().st_size
        feeds = dict(
            zip(artifact.input_names, [x for x in program.example.leaves() if torch.is_tensor(x)], strict=True)
        )
        results[kind] = artifact.run(**feeds)["last_hidden_state"]
    assert (results[weights] - results[""]).abs().max() <= allowed
    assert sizes[weights] <= smaller * sizes[""]


def test_saved_and_loaded(tmp_path: Path) -> None:
    program = gw.capture(build("llama"), task=PAST)
    artifact = gw.target("openvino").lower(program)
    artifact.save(tmp_path / "out")
    loaded = load_artifact(tmp_path / "out")
    assert loaded.variables == artifact.variables
    assert gw.compare(program, loaded).ok


def test_options_that_do_not_exist() -> None:
    with pytest.raises(GraphwrightError, match="weights=i3"):
        gw.target("openvino{weights=i3}")


def test_packed_linears_keep_their_bits() -> None:
    """Codes of 2, 4 and 8 bits, with and without zero points, and scattered groups."""
    from graphwright.ir.packed import pack_codes

    torch.manual_seed(0)

    class Packed(torch.nn.Module):
        def __init__(self, bits: int, zeros: bool, scattered: bool) -> None:
            super().__init__()
            self.bits = bits
            codes = torch.randint(0, 2**bits, (48, 64), dtype=torch.uint8)
            self.register_buffer("weight", pack_codes(codes, bits))
            self.register_buffer("scales", torch.rand(48, 2).half())
            self.register_buffer("zeros", torch.randint(0, 2**bits, (48, 2), dtype=torch.uint8) if zeros else None)
            order = torch.randperm(64) // 32 if scattered else None
            self.register_buffer("group_index", None if order is None else order.to(torch.int32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = (self.weight, self.scales, self.zeros, self.group_index, None, self.bits, 32)
            return torch.ops.graphwright.packed_linear(x, *parts)

    for bits, zeros, scattered in (
        (4, False, False),
        (4, True, False),
        (8, True, False),
        (2, True, False),
        (4, True, True),
    ):
        program = gw.capture(Packed(bits, zeros, scattered), (torch.randn(3, 64),))
        artifact = gw.target("openvino").lower(program)
        assert gw.compare(program, artifact, rtol=1e-3).ok
        kinds = {
            node.get_element_type().get_type_name()
            for node in artifact.model.get_ops()
            if node.get_type_name() == "Constant"
        }
        assert ("u8" if bits == 8 else "u4") in kinds


def test_an_export_says_how_exact_it_is_as_deployed(tmp_path: Path) -> None:
    """Beside the check in float32: the difference at the precision that the plugin chooses by itself."""
    done = gw.export(build("bert"), tmp_path / "out", "openvino")
    assert done.ok and set(done.deployed) == {"model"}
    assert "as deployed" in str(done)
    assert (tmp_path / "out" / "config.json").exists()
