"""A fast slice of the coverage harness, and tests of its own parts: a harness that sees nothing finds nothing wrong."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.coverage import rows, softmaxes
from benchmarks.coverage.architectures import architectures
from benchmarks.coverage.cases import padded
from benchmarks.coverage.compare import TOLERANCE, compare, difference
from benchmarks.coverage.examine import examine
from benchmarks.coverage.precision import Float64, grouped_product
from benchmarks.coverage.report import write_report
from benchmarks.coverage.shrink import shrunk
from benchmarks.coverage.sizes import GROUPS
from graphwright.frontends.capture import capture
from graphwright.passes.pipeline import Pipeline

transformers = pytest.importorskip("transformers")

# class -> attentions: encoders, decoders, both, vision, audio; absolute, relative, rotary and ALiBi positions;
# grouped and multi-query heads; sliding windows; soft-capping; a router
SLICE = {
    "BertForMaskedLM": 2,
    "DistilBertForMaskedLM": 2,
    "MPNetForMaskedLM": 2,
    "GPT2LMHeadModel": 2,
    "GPTNeoXForCausalLM": 2,
    "OPTForCausalLM": 2,
    "BloomForCausalLM": 2,
    "LlamaForCausalLM": 2,
    "MistralForCausalLM": 2,
    "Gemma2ForCausalLM": 2,
    "MixtralForCausalLM": 2,
    "T5ForConditionalGeneration": 6,
    "BartForConditionalGeneration": 6,
    "ViTForImageClassification": 2,
    "Wav2Vec2ForCTC": 2,
}


@pytest.mark.parametrize("name", SLICE)
def test_architecture_is_fused_and_equal(name):
    (architecture,) = [item for item in architectures([name], every=True) if item.head != "pretraining"][:1]
    row = examine(architecture)
    assert (row.status, row.reason) == (rows.DONE, "")
    assert (row.attentions, row.fused) == (SLICE[name], SLICE[name]), row.misses
    assert not row.wrong and not row.refused
    assert row.differences and row.worst <= TOLERANCE
    assert "batch" in row.dims


def test_at_least_300_architectures_are_listed():
    found = architectures()
    assert len(found) >= 300
    assert len({str(item) for item in found}) == len(found)


class Router(torch.nn.Module):
    """A gate whose softmax is none of attention's, and one attention."""

    def __init__(self):
        super().__init__()
        self.gate, self.out = torch.nn.Linear(8, 3), torch.nn.Linear(8, 8)

    def forward(self, x):
        gates = torch.softmax(self.gate(x), dim=-1)
        mixed = torch.softmax(x @ x.transpose(-1, -2) / math.sqrt(8), dim=-1) @ self.out(x)
        return gates[..., :1] * mixed


def test_softmax_of_a_router_is_no_attention():
    program = Pipeline("canonicalize").run(capture(Router().eval(), (torch.randn(2, 5, 8),))).program
    assert len(softmaxes.all_softmaxes(program)) == 2
    assert len(softmaxes.attention_softmaxes(program)) == 1


def test_small_config_keeps_one_layer_of_each_kind():
    config = transformers.Gemma3TextConfig()
    small = shrunk(config, GROUPS)
    assert small.layer_types == ["sliding_attention", "full_attention"]
    assert small.num_hidden_layers == 2
    assert small.hidden_size < config.hidden_size and small.vocab_size == 99
    assert small.num_key_value_heads < small.num_attention_heads
    assert config.num_hidden_layers == 26


def test_special_tokens_stay_apart_inside_the_small_vocabulary():
    small = shrunk(transformers.LlavaConfig(image_token_index=32000), GROUPS)
    assert small.image_token_index < small.text_config.vocab_size


@pytest.mark.parametrize("padding", ["right", "left", "scattered"])
def test_padding_leaves_each_row_a_token(padding):
    mask = padded(torch.ones(4, 5, dtype=torch.long), padding)
    assert mask.sum(1).min() >= 1
    assert (mask.sum(1) < 5).all()
    assert padding != "right" or mask[:, 0].all()
    assert padding != "left" or mask[:, -1].all()


def test_difference_counts_real_positions_and_finite_values_alone():
    a = torch.tensor([[[1.0], [2.0], [math.nan]]])
    b = torch.tensor([[[1.0], [5.0], [7.0]]])
    assert difference([a], [b], torch.tensor([[1, 0, 1]])) == 0
    assert difference([a], [b], None) == pytest.approx(1.5)
    assert difference([a], [torch.full_like(a, math.nan)], None) == math.inf
    assert difference([a], [b[:, :2]], None) == math.inf


def test_a_wrong_program_is_found_and_blamed_on_the_passes():
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=40, vocab_size=99,
        attn_implementation="eager",
    )  # fmt: skip
    model = BertModel(config).eval()
    program = capture(model)
    wrong = Pipeline("default").run(program).program
    (attention,) = [node for node in wrong.graph.nodes if "scaled_dot_product" in str(node.target)]
    attention.update_arg(3, None)
    wrong.touch()
    row = rows.Row("bert", "BertModel", "base")
    compare(row, model, program, wrong)
    assert {"right padding", "left padding", "scattered padding"} <= {*row.wrong}
    assert "captured" not in row.wrong
    assert all("in the passes" in text for text in row.wrong.values())


def test_everything_is_float64_inside_the_mode():
    x = torch.randn(3, 4, dtype=torch.float64)
    with Float64():
        y = torch.softmax(x, dim=-1, dtype=torch.float32)
        z = torch.arange(3) * torch.ones(3) + x.float()[:, 0]
    assert y.dtype == z.dtype == torch.float64
    assert torch.equal(y, torch.softmax(x, dim=-1))


def test_grouped_product_is_a_product_for_each_group():
    rows_, matrices = torch.randn(5, 3), torch.randn(2, 3, 4)
    result = grouped_product(rows_, matrices, torch.tensor([2, 5]))
    assert torch.equal(result, torch.cat([rows_[:2] @ matrices[0], rows_[2:] @ matrices[1]]))


def test_rows_survive_a_file_and_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = rows.Row("bert", "BertModel", "base", misses=[rows.MissRow("layer.0", "why")], nodes=(3, 2))
    rows.append_row(path, row)
    with path.open("a") as file:
        file.write('{"model_type": "gpt')
    assert rows.read_rows(path) == {"bert/BertModel": row}


def test_report_counts_and_names_what_is_wrong(tmp_path):
    good = rows.Row("bert", "BertModel", "base", attentions=2, fused=2, nodes=(9, 5), differences={"captured": 1e-15})
    bad = rows.Row("gpt2", "GPT2Model", "base", attentions=2, fused=1, nodes=(9, 7), wrong={"batch 1": "1e-1"},
                   misses=[rows.MissRow("h.0", "%add has 2 users")])  # fmt: skip
    write_report(tmp_path / "coverage.md", [good, bad])
    text = (tmp_path / "coverage.md").read_text()
    assert "| fused | 3 (75.0 %) |" in text
    assert "| wrong | 1 |" in text
    assert "gpt2/GPT2Model: batch 1: 1e-1" in text
