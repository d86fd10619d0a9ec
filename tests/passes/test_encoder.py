"""Layers of encoders are recognised by structure, rewritten without changing a value, and missed with a reason."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from graphwright.frontends.capture import capture
from graphwright.ir.node import bound, is_call
from graphwright.lowering.compare import compare
from graphwright.passes.encoder.layer import EncoderLayer, find_layers
from graphwright.passes.pipeline import Pipeline

aten = torch.ops.aten
FAST = "default,encoder-fastpath{merge=always}"
LAYERS = 2
TOKENS = {"vocab_size": 99, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {**TOKENS, **SIZES}
IMAGE = {**SIZES, "image_size": 16, "patch_size": 8}
BART = {**TOKENS, "d_model": 32, "encoder_layers": LAYERS, "decoder_layers": 1, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 2,
        "max_position_embeddings": 64}  # fmt: skip
SPEECH = {**TEXT, "conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2,
          "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}  # fmt: skip
DISTIL = {**TOKENS, "dim": 32, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 48}
PROPHET = {**TOKENS, "hidden_size": 32, "num_encoder_layers": LAYERS, "num_decoder_layers": 1,
           "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "encoder_ffn_dim": 48,
           "decoder_ffn_dim": 48, "max_position_embeddings": 64}  # fmt: skip
FSMT = {**BART, "langs": ["en", "de"], "src_vocab_size": 99, "tgt_vocab_size": 99}
CLIP = {**IMAGE, "hidden_act": "quick_gelu"}
SPLIT_NORMS = {"do_stable_layer_norm": True}

# Model type -> its class, its configuration, and whether its layers are pre-norm: the encoders of BetterTransformer.
ENCODERS = {
    "albert": ("AlbertModel", {**TEXT, "embedding_size": 16, "hidden_act": "gelu_new"}, False),
    "bart": ("BartForConditionalGeneration", BART, False),
    "bert": ("BertModel", TEXT, False),
    "bert-generation": ("BertGenerationEncoder", TEXT, False),
    "camembert": ("CamembertModel", TEXT, False),
    "clip": ("CLIPVisionModel", CLIP, True),
    "data2vec-text": ("Data2VecTextModel", TEXT, False),
    "deit": ("DeiTModel", IMAGE, True),
    "distilbert": ("DistilBertModel", DISTIL, False),
    "electra": ("ElectraModel", {**TEXT, "embedding_size": 16}, False),
    "ernie": ("ErnieModel", TEXT, False),
    "fsmt": ("FSMTForConditionalGeneration", FSMT, False),
    "hubert": ("HubertModel", SPEECH, False),
    "layoutlm": ("LayoutLMModel", TEXT, False),
    "m2m_100": ("M2M100ForConditionalGeneration", BART, True),
    "marian": ("MarianMTModel", BART, False),
    "markuplm": ("MarkupLMModel", {**TEXT, "max_depth": 5, "xpath_unit_hidden_size": 8}, False),
    "mbart": ("MBartForConditionalGeneration", BART, True),
    "prophetnet": ("ProphetNetForConditionalGeneration", PROPHET, False),
    "rembert": ("RemBertModel", {**TEXT, "input_embedding_size": 16}, False),
    "roberta": ("RobertaModel", TEXT, False),
    "roc_bert": ("RoCBertModel", TEXT, False),
    "roformer": ("RoFormerModel", TEXT, False),
    "splinter": ("SplinterModel", TEXT, False),
    "tapas": ("TapasModel", TEXT, False),
    "vilt": ("ViltModel", IMAGE | {"vocab_size": 99}, True),
    "vit": ("ViTModel", IMAGE, True),
    "vit_mae": ("ViTMAEModel", {**IMAGE, "mask_ratio": 0.0}, True),
    "vit_msn": ("ViTMSNModel", IMAGE, True),
    "wav2vec2": ("Wav2Vec2Model", SPEECH, False),
    "xlm-roberta": ("XLMRobertaModel", TEXT, False),
    "yolos": ("YolosModel", {**IMAGE, "image_size": [16, 16], "num_detection_tokens": 3}, True),
}
OTHERS = {
    "wav2vec2 stable": ("Wav2Vec2Model", SPEECH | SPLIT_NORMS, True),
    "wavlm": ("WavLMModel", SPEECH, False),
    "esm": ("EsmModel", {**TEXT, "mask_token_id": 4, "position_embedding_type": "rotary"}, True),
    "mpnet": ("MPNetModel", TEXT, False),
    "nystromformer's cousin xlm-roberta-xl": ("XLMRobertaXLModel", TEXT, True),
    "beit": ("BeitModel", IMAGE | {"use_relative_position_bias": True}, True),
    "whisper": (
        "WhisperForConditionalGeneration",
        {**BART, "num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 16},
        True,
    ),
}  # fmt: skip
DTYPES = {"fsmt": torch.float32}  # its mask's fill value is out of range in float64
TOLERANCES = {"markuplm": 1e-6, "splinter": 1e-6}  # they compute their softmax in float32 whatever the dtype is
DYNAMIC = {"vilt": {"hidden_states": {0: "batch", 1: "sequence"}, "attention_mask": {0: "batch", 3: "sequence"}}}
QUICK = {"bert", "roformer", "vit", "albert", "m2m_100"}


def build(name):
    class_name, options, norm_first = (ENCODERS | OTHERS)[name]
    torch.manual_seed(0)
    model_class = getattr(transformers, class_name)
    model = model_class(model_class.config_class(**options)).eval().to(DTYPES.get(name, torch.float64))
    if name == "vilt":  # what comes before its encoder cannot be captured: it picks patches at random
        model = model.encoder
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model, norm_first


def inputs_of(name):
    """Inputs for models whose inputs cannot be made up from their config alone."""
    torch.manual_seed(0)
    if name == "vilt":
        return {"hidden_states": torch.randn(2, 5, 32).double(), "attention_mask": torch.zeros(2, 1, 1, 5).double()}
    if name == "vit_mae":
        return {"pixel_values": torch.randn(2, 3, 16, 16).double(), "noise": torch.rand(2, 4).double()}
    return None


def layers(program):
    return [found for found in find_layers(program) if isinstance(found, EncoderLayer)]


def fast(program, pipeline=FAST):
    return Pipeline(pipeline).run(program)


def marks(name):
    return () if name in QUICK else (pytest.mark.slow,)


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in ENCODERS | OTHERS])
def test_every_layer_of_every_encoder(name):
    model, norm_first = build(name)
    result = fast(capture(model, inputs_of(name), dynamic=DYNAMIC.get(name, "auto")))
    found = layers(result.program)
    assert len(found) == LAYERS, result.misses
    assert all(layer.norm_first == norm_first for layer in found)
    assert all(len(layer.projections) == 1 for layer in found)  # merged
    compare(model, result.program, rtol=TOLERANCES.get(name))


def test_the_list_is_complete():
    assert len(ENCODERS) == 32


@pytest.mark.parametrize("merge", ["auto", "never"])
def test_projections_stay_apart_on_a_cpu(merge):
    model, _ = build("bert")
    result = fast(capture(model), f"default,encoder-fastpath{{merge={merge}}}")
    assert all(len(layer.projections) == 3 for layer in layers(result.program))


def test_roformer_keeps_its_rotary():
    model, _ = build("roformer")
    result = fast(capture(model), "default,fuse-rotary,encoder-fastpath{merge=always}")
    rotaries = [n for n in result.program.nodes if is_call(n, torch.ops.graphwright.rotary_embedding)]
    assert len(rotaries) == 2 * LAYERS
    assert all(any(node in layer.nodes() for layer in layers(result.program)) for node in rotaries)
    compare(model, result.program)


def test_layers_of_packed_tokens():
    model, _ = build("bert")
    result = fast(capture(model), "default,remove-padding,encoder-fastpath{merge=always}")
    found = layers(result.program)
    assert len(found) == LAYERS
    assert all(is_call(layer.attention, torch.ops.graphwright.varlen_attention) for layer in found)
    compare(model, result.program)


def test_shared_layers_share_the_merged_weight():
    model, _ = build("albert")
    result = fast(capture(model))
    weights = {bound(layer.projections[0])["weight"] for layer in layers(result.program)}
    assert len(layers(result.program)) == LAYERS and len(weights) == 1


def test_one_hunk_for_all_layers_and_undo():
    model, _ = build("bert")
    program = capture(model)
    result = fast(program)
    assert f"EncoderLayer  x{LAYERS}" in str(result.diff)
    assert not [n for n in result.undo("encoder-fastpath").nodes if is_call(n, aten.split_with_sizes)]


# ---- layers of our own: what may vary, and what may not --------------------------------------------------------


class Layer(nn.Module):
    """A layer whose parts can be changed by options."""

    def __init__(self, norm_first=False, act=F.gelu, biases=(True, True, True), gated=False, width=16, **flaws):
        super().__init__()
        torch.manual_seed(0)
        self.norm_first, self.act, self.gated, self.flaws = norm_first, act, gated, flaws
        self.q, self.k, self.v = (nn.Linear(16, width, bias=b) for b in biases)
        self.out, self.fc1, self.gate, self.fc2 = (
            nn.Linear(width, 16), nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16),
        )  # fmt: skip
        self.norm1, self.norm2, self.extra = nn.LayerNorm(16), nn.LayerNorm(16), nn.Linear(16, 16)
        self.dropout = nn.Dropout(0.5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(3)
        self.eval().double()

    def attention(self, x, memory):
        batch, length = x.shape[:2]
        heads = [t.view(batch, length, 4, -1).transpose(1, 2) for t in (self.q(x), self.k(memory), self.v(memory))]
        if factor := self.flaws.get("factor"):
            heads[0] = heads[0] * factor
        if divisor := self.flaws.get("divisor"):
            heads[0] = heads[0] / divisor
        y = F.scaled_dot_product_attention(*heads, is_causal=self.flaws.get("causal", False))
        return self.dropout(self.out(y.transpose(1, 2).reshape(batch, length, -1)))

    def feed_forward(self, x):
        y = self.act(self.fc1(x))
        y = self.fc2(self.dropout(y * self.gate(x) if self.gated else y))
        return self.dropout(self.extra(y) if self.flaws.get("third") else y)

    def forward(self, x, memory=None):
        read = self.norm1(x) if self.norm_first else x
        y = self.attention(read, read if memory is None else memory)
        h = x + y if not self.flaws.get("unrelated") else self.extra(x) + y
        if self.flaws.get("unnormed"):
            return h
        if self.norm_first:
            return h + self.feed_forward(self.norm2(h))
        h = self.norm1(h)
        end = self.norm2(self.feed_forward(h) + (x if self.flaws.get("skips") else h))
        return (end, y) if self.flaws.get("observed") else end


X = torch.randn(2, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
FORMS = {
    "post-norm": {},
    "pre-norm": {"norm_first": True},
    "relu": {"act": F.relu},
    "tanh gelu": {"act": lambda x: F.gelu(x, approximate="tanh")},
    "quick gelu": {"act": lambda x: x * torch.sigmoid(1.702 * x)},
    "silu": {"act": F.silu, "norm_first": True},
    "mish": {"act": F.mish},
    "softplus squared": {"act": lambda x: F.softplus(x).pow(2)},
    "no biases": {"biases": (False, False, False)},
    "no key bias": {"biases": (True, False, True)},
    "gated": {"gated": True, "norm_first": True},
    "narrow heads": {"width": 8},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form, trace_module):
    module = Layer(**FORMS[form])
    result = fast(trace_module(module, X, dynamic=(0, 1)))
    (layer,) = layers(result.program)
    assert len(layer.projections) == 1 and layer.norm_first == module.norm_first
    assert len(layer.feed_in) == 1 + module.gated
    for shape in ((2, 5, 16), (1, 9, 16), (3, 2, 16)):
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(result.program.run(x), module(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("flaw", [{"factor": 0.3}, {"divisor": 8.0}, {"factor": -2.0}])
def test_a_factor_on_the_queries_becomes_the_scale(flaw, trace_module):
    module = Layer(**flaw)
    result = fast(trace_module(module, X, dynamic=(0, 1)))
    assert not [n for n in result.program.nodes if is_call(n, aten.mul, aten.div)]
    torch.testing.assert_close(result.program.run(X), module(X), rtol=1e-11, atol=1e-11)


MISSES = {
    "causal": ("causal", "decoder"),
    "third": (None, "linear follows where the residual should be added"),
    "unrelated": (None, "what is added to the attention is neither"),
    "unnormed": (None, "not normalised"),
    "skips": (None, "what is added to the feed-forward is not"),
    "observed": (None, "users"),
}


@pytest.mark.parametrize("flaw", MISSES)
def test_near_misses_say_why(flaw, trace_module):
    module = Layer(**{flaw: True})
    result = fast(trace_module(module, X))
    assert layers(result.program) == []
    (miss,) = [miss for miss in result.misses if miss.rule == "EncoderLayer"]
    assert MISSES[flaw][1] in miss.reason
    assert miss.expected in miss.pattern and miss.culprit is not None
    assert not [n for n in result.program.nodes if is_call(n, aten.split_with_sizes)]


def test_cross_attention_is_a_miss(trace_module):
    result = fast(trace_module(Layer(), X, X + 1))
    (miss,) = [miss for miss in result.misses if miss.rule == "EncoderLayer"]
    assert "cross-attention" in miss.reason


def test_attention_that_is_written_out_is_a_miss():
    model, _ = build("bert")
    model.set_attn_implementation("eager")
    result = fast(capture(model), "canonicalize,encoder-fastpath")
    reasons = [miss.reason for miss in result.misses if miss.rule == "EncoderLayer"]
    assert len(reasons) == LAYERS and all("written out" in reason for reason in reasons)


def test_training_keeps_dropout_and_gradients(trace_module):
    module = Layer()
    module.train()
    result = fast(trace_module(module, X))
    (layer,) = layers(result.program)
    assert [node for node in layer.nodes() if is_call(node, aten.dropout)]
    for run in (module, result.program.run):
        torch.manual_seed(3)
        module.zero_grad()
        run(X).square().sum().backward()
        found = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
        if run is module:
            wanted = found
    assert len(found) == len(wanted) == 16
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
