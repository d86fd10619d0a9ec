"""Half precision where it is allowed: what becomes narrow, what stays wide, and how far results may move."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graphwright.frontends.capture import capture
from graphwright.ir.errors import GraphwrightError
from graphwright.ir.node import is_call, value_of
from graphwright.lowering.eager.folding import FoldedFunction
from graphwright.lowering.eager.narrow import narrow
from graphwright.lowering.registry import target
from graphwright.passes.pipeline import Pipeline

aten = torch.ops.aten
BF16, F32 = torch.bfloat16, torch.float32

pytestmark = pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bfloat16 in oneDNN here")


class Block(nn.Module):
    """Attention and feed-forward with a residual, and a softmax written out at the end."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out, self.norm = nn.Linear(32, 96), nn.Linear(32, 32), nn.LayerNorm(32)

    def forward(self, x, mask):
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        y = self.norm(F.gelu(self.out(y)) + x)
        return torch.softmax(y * 1000, -1), y


@pytest.fixture(scope="module")
def module():
    return Block()


@pytest.fixture(scope="module")
def program(module, trace_module):
    made = trace_module(module, torch.randn(2, 5, 32), torch.zeros(2, 1, 1, 5), dynamic=(0,))
    return Pipeline("canonicalize").run(made).program


def dtypes(program, packet):
    return {value_of(node).dtype for node in program.nodes if is_call(node, packet)}


def test_products_are_narrow_and_sums_are_not(program):
    narrowed = narrow(program)
    for packet in (aten.linear, aten.scaled_dot_product_attention, aten.gelu):
        assert dtypes(narrowed, packet) == {BF16}, packet
    for packet in (aten.add, aten.layer_norm, aten.softmax):
        assert dtypes(narrowed, packet) == {F32}, packet
    assert [value_of(node).dtype for node in narrowed.results] == [F32, F32]
    assert dtypes(program, aten.linear) == {F32}  # the program itself is as it was


def run(module, program, x, mask, linear="auto"):
    with torch.no_grad():
        return FoldedFunction(program, "all", linear, BF16)((x, mask)), module.double()(x.double(), mask.double())


@pytest.mark.parametrize("linear", ["mkl", "auto", "packed"])
def test_results_are_near(linear, module, program):
    try:
        (_, have), (_, want) = run(module, program, torch.randn(3, 5, 32), torch.zeros(3, 1, 1, 5), linear)
    finally:
        module.float()
    assert have.dtype == F32
    assert float((have - want).abs().max()) < 0.05  # normalised values: about 4 roundings of 2^-8 of values up to 3
    assert float((have - want).abs().max()) > 1e-5  # it was computed in half precision indeed


def test_a_row_that_masks_everything_stays_finite(module, program):
    mask = torch.full((2, 1, 1, 5), torch.finfo(F32).min)
    with torch.no_grad():
        result = FoldedFunction(program, "all", "auto", BF16)((torch.randn(2, 5, 32), mask))
    assert all(torch.isfinite(value).all() for value in result)


def test_gradients_are_those_of_float32(module, program):
    function = FoldedFunction(program, "all", "auto", BF16)
    x, mask = torch.randn(2, 5, 32), torch.zeros(2, 1, 1, 5)
    torch.testing.assert_close(list(function((x, mask))), list(module(x, mask)))


def test_the_option(program, module):
    artifact = target("eager{dtype=bfloat16}").lower(program)
    with torch.no_grad():
        have, want = artifact(torch.ones(2, 5, 32), torch.zeros(2, 1, 1, 5))[1], module(torch.ones(2, 5, 32), None)[1]
    torch.testing.assert_close(have, want, rtol=0, atol=0.05)
    with pytest.raises(GraphwrightError, match="fold=all"):
        target("eager{dtype=bfloat16,fold=views}")


def test_bert():
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, vocab_size=99
    )
    model = BertModel(config).eval()
    program = Pipeline("default").run(capture(model), validate=False).program
    ids = torch.randint(1, 99, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, 5:], mask[1] = 0, 0  # the second row keeps nothing
    function = FoldedFunction(program, "all", "packed", BF16)
    leaves = {"input_ids": ids, "attention_mask": mask}
    inputs = [leaves[name] for name in target("eager").lower(program).input_names]
    with torch.no_grad():
        have, want = function(inputs)[0], model(**leaves).last_hidden_state
    assert float((have - want)[0].abs().max()) < 0.08
    assert torch.isfinite(have).all()


class Step(nn.Module):
    """A step on a buffer for keys and values."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv = nn.Linear(32, 96)

    def forward(self, x, keys, values, position):
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        keys, values = keys.index_copy(2, position, k), values.index_copy(2, position, v)
        return F.scaled_dot_product_attention(q, keys, values), keys, values


@pytest.mark.parametrize("passes", ["canonicalize", "canonicalize,static-cache"])
def test_caches_stay_wide(trace_module, passes):
    inputs = (torch.randn(2, 1, 32), torch.zeros(2, 4, 6, 8), torch.zeros(2, 4, 6, 8), torch.tensor([3]))
    narrowed = narrow(Pipeline(passes).run(trace_module(Step(), *inputs)).program)
    assert dtypes(narrowed, aten.linear) == {BF16}
    assert dtypes(narrowed, aten.scaled_dot_product_attention) == {F32}
