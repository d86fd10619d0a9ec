"""Architectures on the HPU target against the originals: several sizes, padding on all sides."""

from __future__ import annotations

from typing import Any

import pytest
import torch

t = pytest.importorskip("transformers")

import graphwright as gw  # noqa: E402
from graphwright.ir.node import bound  # noqa: E402
from graphwright.lowering.interface import Interface  # noqa: E402

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = SMALL | {
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = TEXT | {"num_key_value_heads": 2}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64} | {
    k: TEXT[k] for k in ("vocab_size", "bos_token_id", "eos_token_id")
}
EXPERTS = GROUPED | {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
PAIR = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "vocab_size": 50,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = SMALL | {"image_size": 16, "patch_size": 4}

# fmt: off
WAVES = SMALL | {"vocab_size": 50, "conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3),
                 "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "vocab_size": 50}
SPARSE = EXPERTS | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
LATENT = {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
          "v_head_dim": 8, "n_shared_experts": 1}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertModel", TEXT),
    "roberta": ("RobertaForSequenceClassification", TEXT | {"pad_token_id": 1}),
    "xlm-roberta": ("XLMRobertaForMaskedLM", TEXT | {"pad_token_id": 1}),
    "distilbert": ("DistilBertModel", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 50}),
    "albert": ("AlbertModel", TEXT | {"embedding_size": 16}),
    "electra": ("ElectraForTokenClassification", TEXT | {"embedding_size": 16}),
    "mpnet": ("MPNetForMaskedLM", TEXT),
    "deberta": ("DebertaV2Model",
                TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}),
    "modernbert": ("ModernBertModel", TEXT | {"local_attention": 8, "cls_token_id": 1, "sep_token_id": 2}),
    "esm": ("EsmModel", TEXT | {"position_embedding_type": "rotary", "mask_token_id": 3}),
    "gpt2": ("GPT2LMHeadModel", GPT),
    "gptj": ("GPTJForCausalLM", GPT | {"rotary_dim": 4}),
    "gpt-neox": ("GPTNeoXForCausalLM", TEXT),
    "opt": ("OPTForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 64, "num_attention_heads": 4,
                               "vocab_size": 50, "word_embed_proj_dim": 32, "max_position_embeddings": 64}),
    "bloom": ("BloomForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50}),
    "falcon": ("FalconForCausalLM",
               {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}),
    "llama": ("LlamaForCausalLM", GROUPED),
    "llama4": ("Llama4ForCausalLM", GROUPED | {"num_local_experts": 4, "head_dim": 8, "intermediate_size_mlp": 32}),
    "mistral": ("MistralForCausalLM", GROUPED | {"sliding_window": 8}),
    "qwen2": ("Qwen2ForCausalLM", GROUPED),
    "qwen3": ("Qwen3ForCausalLM", GROUPED | {"head_dim": 8}),
    "gemma": ("GemmaForCausalLM", GROUPED | {"head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", GROUPED | {"head_dim": 8}),
    "gemma3": ("Gemma3ForCausalLM", GROUPED | {"head_dim": 8}),
    "phi": ("PhiForCausalLM", TEXT),
    "phi3": ("Phi3ForCausalLM", GROUPED),
    "stablelm": ("StableLmForCausalLM", GROUPED),
    "cohere": ("CohereForCausalLM", GROUPED),
    "olmo2": ("Olmo2ForCausalLM", GROUPED),
    "granite": ("GraniteForCausalLM", GROUPED),
    "starcoder2": ("Starcoder2ForCausalLM", GROUPED),
    "mamba": ("MambaForCausalLM", {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 50, "state_size": 4}),
    "gpt-oss": ("GptOssForCausalLM", GROUPED | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "mixtral": ("MixtralForCausalLM", GROUPED | {"num_local_experts": 4}),
    "qwen3-moe": ("Qwen3MoeForCausalLM", EXPERTS | {"num_experts": 4, "head_dim": 8}),
    "qwen2-moe": ("Qwen2MoeForCausalLM", EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 16}),
    "olmoe": ("OlmoeForCausalLM", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}),
    "deepseek-v3": ("DeepseekV3ForCausalLM", SPARSE | LATENT | {"n_group": 2}),
    "glm4-moe": ("Glm4MoeForCausalLM", SPARSE | {"head_dim": 8}),
    "phimoe": ("PhimoeForCausalLM", GROUPED | {"num_local_experts": 4}),
    "granite-moe": ("GraniteMoeForCausalLM", GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "ernie-moe": ("Ernie4_5_MoeForCausalLM",
                  EXPERTS | {"moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 0}),
    "bart": ("BartModel", PAIR),
    "mbart": ("MBartModel", PAIR),
    "pegasus": ("PegasusModel", PAIR),
    "marian": ("MarianModel", PAIR | {"decoder_start_token_id": 1}),
    "t5": ("T5ForConditionalGeneration", T5),
    "mt5": ("MT5Model", T5),
    "whisper": ("WhisperModel", PAIR | {"num_mel_bins": 8, "max_source_positions": 12, "decoder_start_token_id": 1}),
    "vit": ("ViTModel", VISION),
    "deit": ("DeiTModel", VISION),
    "beit": ("BeitModel", VISION),
    "dinov2": ("Dinov2Model", VISION),
    "siglip": ("SiglipVisionModel", VISION),
    "clip": ("CLIPModel", {"text_config": TEXT, "vision_config": VISION, "projection_dim": 16}),
    "swin": ("SwinModel", {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2],
                           "window_size": 4}),
    "convnext": ("ConvNextModel",
                 {"num_channels": 3, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 32, "num_stages": 2}),
    "wav2vec2": ("Wav2Vec2Model", WAVES),
    "hubert": ("HubertModel", WAVES),
}
# fmt: on


def build(name: str) -> Any:
    torch.manual_seed(0)
    cls, config = CASES[name]
    cls = getattr(t, cls)
    model = cls(cls.config_class(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def sizes_for(program: gw.Program) -> str:
    """Two buckets per dimension that can be padded, of which one is larger than what was captured."""
    dims = Interface.of(program).dims
    found = {"batch": "1+3"} if "batch" in dims else {}
    for name in ("sequence", "decoder_sequence"):
        if name in dims:
            found[name] = f"{dims[name].example}+16"
    return "/".join(f"{name}:{numbers}" for name, numbers in found.items())


def lowered(program: gw.Program) -> Any:
    return gw.target(f"hpu{{sizes={sizes_for(program)}}}").lower(program)


def operators(artifact: Any) -> set[str]:
    """The vendor's operators in an artifact, by their base names."""
    calls = [call for calls in artifact.provenance.values() for call in calls]
    return {call.split(".")[1] for call in calls if call.startswith("hpu.")}


DEFAULT = ("bert", "gpt2", "llama", "mixtral", "vit")
NOT_FUSED = {"gemma2", "gpt-oss", "mamba", "convnext"}
"""Soft-capped scores and sinks, which the published operator does not have; models without attention."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in DEFAULT else pytest.mark.slow) for name in CASES]
)
def test_computes_what_the_model_computes(name: str) -> None:
    """The default tolerance of float32, on all the sizes and paddings that `compare` makes within the buckets."""
    model = build(name)
    program = gw.capture(model)
    artifact = lowered(program)
    result = gw.compare(model, artifact)
    assert len(result.rows) >= 2
    assert not any(row.skipped for row in result.rows)
    assert ("sdpa_recomp_fwd" in operators(artifact)) == (name not in NOT_FUSED)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama", {"sdpa_recomp_fwd", "rms_norm", "rotary_pos_embedding"}),
        pytest.param(
            "mixtral",
            {"sdpa_recomp_fwd", "rms_norm", "rotary_pos_embedding", "mixture_of_experts"},
            marks=pytest.mark.slow,
        ),
        pytest.param("qwen2-moe", {"mixture_of_experts", "rms_norm"}, marks=pytest.mark.slow),
        pytest.param("olmoe", {"mixture_of_experts", "rms_norm"}, marks=pytest.mark.slow),
    ],
)
def test_operators(name: str, expected: set[str]) -> None:
    assert expected <= operators(lowered(gw.capture(build(name))))


@pytest.mark.parametrize(
    "name", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bert", "mixtral"))]
)
@pytest.mark.parametrize("act_order", [pytest.param(False, marks=pytest.mark.slow), True])
def test_packed_weights(name: str, act_order: bool) -> None:
    """Weights of 4 bits; codes and zeros are exact, so what is compared is the order of sums in float32."""
    program = gw.capture(build(name))
    packed = gw.Pipeline("canonicalize,quantize-rtn{bits=4,group_size=16}").run(program).program
    if act_order:
        scatter_groups(packed)
    artifact = lowered(packed)
    assert "convert_from_uint4" in operators(artifact)
    assert ("mixture_of_experts" in operators(artifact)) == (name == "mixtral")
    gw.compare(packed, artifact)


def test_without_a_mask_attention_is_causal() -> None:
    program = gw.capture(build("llama"), {"input_ids": torch.randint(3, 50, (2, 9))})
    artifact = gw.target("hpu").lower(program)
    calls = [node for node in artifact.program.graph.nodes if "sdpa_recomp_fwd" in str(node.target)]
    assert calls and all(node.args[3] is None and node.args[6] is True for node in calls)
    gw.compare(program, artifact)


@pytest.mark.parametrize("name", ["llama", pytest.param("mixtral", marks=pytest.mark.slow)])
def test_half_precision(name: str) -> None:
    """The default tolerance of bfloat16; norms and rotary embeddings are fused there too."""
    model = build(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.div_(3)  # larger weights let single roundings of the logits grow
    model = model.to(torch.bfloat16)
    artifact = lowered(gw.capture(model))
    gw.compare(model, artifact)
    assert {"rms_norm", "rotary_pos_embedding", "sdpa_recomp_fwd"} <= operators(artifact)
    assert ("mixture_of_experts" in operators(artifact)) == (name == "mixtral")


def scatter_groups(program: gw.Program) -> None:
    """Give every packed weight groups that are scattered over its inputs, as GPTQ leaves them with `desc_act`."""
    for node in [node for node in program.graph.nodes if "graphwright" in str(node.target)]:
        given = bound(node)
        inputs = given["inputs"] if "inputs" in given else given["input"].meta["val"].shape[-1]
        groups = given["scales"].meta["val"].shape[1]
        index = (torch.randperm(inputs, generator=torch.Generator().manual_seed(inputs)) % groups).int()
        name = f"{node.name}.index"
        program.state[name] = index
        with program.graph.inserting_before(node):
            attribute = program.graph.create_node("get_attr", name)
        attribute.meta["val"] = given["scales"].meta["val"].fake_mode.from_tensor(index)
        node.args, node.kwargs = tuple((given | {"group_index": attribute}).values()), {}
    program.touch()
