"""Captures that copy layers equal captures that trace all of them."""

import importlib
from types import SimpleNamespace

import pytest
import torch
from torch.fx import Node

import graphwright.frontends.smallest as smallest
from graphwright.frontends.alike import kind_of
from graphwright.frontends.export import export_program
from graphwright.frontends.parts import parts
from graphwright.frontends.repeated import Copies

DECODER = {"hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 4, "intermediate_size": 64,
           "vocab_size": 99, "num_key_value_heads": 2}  # fmt: skip
SEQ2SEQ = {"d_model": 32, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 99,
           "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1}  # fmt: skip
IMAGE = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
         "intermediate_size": 64}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 4, "n_head": 4, "vocab_size": 99, "bos_token_id": 0, "eos_token_id": 0}
T5 = {"d_model": 32, "num_layers": 5, "num_heads": 4, "d_kv": 8, "d_ff": 64, "vocab_size": 99,
      "decoder_start_token_id": 0}  # fmt: skip
LISTENER = {"max_source_positions": 30, "max_target_positions": 40, "num_mel_bins": 16}
WINDOWS = {"head_dim": 8, "sliding_window": 16, "num_hidden_layers": 8}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

COPIED = {
    "bert": ("BertModel", {**DECODER, "num_hidden_layers": 6}, [4]),
    "albert": ("AlbertModel", {**DECODER, "embedding_size": 16, "num_hidden_layers": 6}, [3]),
    "gpt2": ("GPT2LMHeadModel", GPT2, [2]),
    "llama": ("LlamaForCausalLM", DECODER, [3]),
    "gemma2": ("Gemma2ForCausalLM", {**DECODER, **WINDOWS}, [4]),
    "mixtral": ("MixtralForCausalLM", {**DECODER, **EXPERTS}, [3]),
    "t5": ("T5ForConditionalGeneration", T5, [3, 3, 3]),
    "bart": ("BartForConditionalGeneration", SEQ2SEQ, [2, 2, 2]),
    "whisper": ("WhisperForConditionalGeneration", {**SEQ2SEQ, **LISTENER}, [2, 2, 2]),
    "vit": ("ViTForImageClassification", IMAGE, [2]),
}
QUICK = ("albert", "llama", "vit")


def build(name):
    transformers = importlib.import_module("transformers")
    cls, settings, _ = COPIED[name]
    model = getattr(transformers, cls)
    torch.manual_seed(0)
    return model(model.config_class(**settings)).eval()


def watched(monkeypatch, copy=True):
    """For each export that is made from now on, how many layers it copied; None where it was not allowed to."""
    seen = []

    def export(*args, copied, **kwargs):
        seen.append(copied if copy else None)
        return export_program(*args, copied=seen[-1], **kwargs)

    monkeypatch.setattr(smallest, "export_program", export)
    return seen


def described(program):
    """All that a graph says, nodes by number."""
    numbers = {node: i for i, node in enumerate(program.nodes)}

    def plain(value):
        if isinstance(value, Node):
            return f"%{numbers[value]}"
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else repr(value)

    def kind(value):
        if isinstance(value, (tuple, list)):
            return [kind(item) for item in value]
        return (str(value.dtype), str(value.shape), str(value.stride())) if hasattr(value, "stride") else str(value)

    return [
        (node.op, str(node.target), plain(node.args), plain(node.kwargs), kind(node.meta.get("val")),
         list(node.meta.get("nn_module_stack", {}).items()), node.meta.get("stack_trace"))
        for node in program.nodes
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COPIED]
)
def test_a_copied_graph_is_the_traced_one(name, monkeypatch):
    for part, expected in zip(parts(build(name)), COPIED[name][2], strict=True):
        seen = watched(monkeypatch)
        copied = part.capture()
        assert seen == [Copies(expected)], part.name
        watched(monkeypatch, copy=False)
        traced = part.capture()
        assert described(copied) == described(traced), part.name
        assert (copied.guards, copied.dims, list(copied.state)) == (traced.guards, traced.dims, list(traced.state))
        assert all(copied.state[key] is traced.state[key] or torch.equal(copied.state[key], traced.state[key])
                   for key in traced.tensors())  # fmt: skip


class Layer(torch.nn.Module):
    """A layer that multiplies, and then does something of its own."""

    def __init__(self, index, extra):
        super().__init__()
        self.layer_idx, self.extra = index, extra
        self.dense = torch.nn.Linear(8, 8)

    def forward(self, x, seen):
        return self.extra(self, self.dense(x).tanh(), seen)


class Stack(torch.nn.Module):
    def __init__(self, extra, count=5):
        super().__init__()
        self.layers = torch.nn.ModuleList(Layer(i, extra) for i in range(count))

    def forward(self, x):
        seen = []
        for layer in self.layers:
            x = layer(x, seen)
        return x, *seen


OUTSIDE = torch.arange(8.0)


def plain(layer, x, seen):
    return x + 1


def by_index(layer, x, seen):
    return x * (layer.layer_idx + 1)


def from_the_fourth(layer, x, seen):
    return x if layer.layer_idx < 3 else x.exp()


def shared(layer, x, seen):
    seen.append(x)
    return x


def own_state(layer, x, seen):
    layer.last = x.shape[0]
    return x


def outside(layer, x, seen):
    return x + OUTSIDE


def in_place(layer, x, seen):
    y = x.exp()
    y.mul_(2)
    return y + x.add_(1)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [(plain, 2), (in_place, 2), (outside, 2), (by_index, 0), (from_the_fourth, 0), (shared, 0), (own_state, 0)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_layers_that_differ_in_what_they_do_are_traced(extra, expected, monkeypatch):
    seen = watched(monkeypatch)
    torch.manual_seed(0)
    model = Stack(extra).double()
    inputs = torch.randn(3, 8, dtype=torch.float64)
    program = smallest.export_checked(model, (inputs,))
    assert (seen[-1].layers if seen[-1] else 0) == expected  # the last export is what is kept
    other = torch.randn(7, 8, dtype=torch.float64)
    for actual, wanted in zip(program.run(other), model(other), strict=True):
        torch.testing.assert_close(actual, wanted)
    assert all("forward" not in vars(layer) for layer in model.layers)
    assert type(model.layers[0]).forward is Layer.__dict__["forward"]


def test_what_a_config_says_of_a_position_counts():
    """A difference that no small example shows, such as the width of a window."""
    config = SimpleNamespace(windows=[8, 8, 64, 8, 64], sizes=(3, 4))
    layers = Stack(plain).layers
    for layer in layers:
        layer.config = config
    kinds = [kind_of(layer, i, 5) for i, layer in enumerate(layers)]
    assert kinds[0] == kinds[1] == kinds[3] != kinds[2] == kinds[4]
