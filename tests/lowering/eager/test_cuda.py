"""CUDA graphs: what they are recorded from, on any machine, and the replay itself on a GPU."""

from __future__ import annotations

import pytest
import torch
import transformers as tf

import graphwright as gw
from graphwright.ir.packing import token_plan
from graphwright.lowering.eager.cuda import CudaFunction, compiles, rounded
from graphwright.lowering.eager.flat import flat_function
from graphwright.lowering.eager.folding import FoldedFunction

SIZE = {"vocab_size": 50, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 48}
PACKED = "default,remove-padding{least=0.0},merge-linears"
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs run on NVIDIA GPUs")


def _bert() -> torch.nn.Module:
    torch.manual_seed(0)
    return tf.BertModel(tf.BertConfig(**SIZE, max_position_embeddings=40), add_pooling_layer=False).eval()


def _mask(rows: int, length: int, *, empty: bool = False) -> torch.Tensor:
    mask = (torch.arange(length) < (length - torch.arange(rows) % length)[:, None]).long()
    if empty:
        mask[[1, -1]] = 0
    return mask


@pytest.mark.parametrize("empty", [False, True], ids=["every row", "empty rows"])
def test_copies_of_the_last_token_change_nothing(empty):
    program = gw.Pipeline(PACKED).run(gw.capture(_bert().double()), validate=False).program
    function = CudaFunction(program, FoldedFunction(program, "all"), "graphs")
    inputs = [torch.randint(0, 50, (16, 29)), _mask(16, 29, empty=empty)]
    with torch.no_grad():
        plan = function._prelude(inputs)
        more = rounded(plan, inputs[0].numel())
        assert more[0].numel() > plan[0].numel() and more[0].numel() % 14 == 0  # 16 * 29 // 32
        weights = function._current()
        (expected,), (actual,) = (function._body([*inputs], [*weights, *given]) for given in (plan, more))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_plans_that_stay_as_they_are():
    whole = token_plan(torch.ones(2, 8, dtype=torch.bool))
    with_others = token_plan(_mask(2, 8).bool().flip(1), first=True)
    nothing = token_plan(torch.zeros(2, 8, dtype=torch.bool))
    for plan in (whole, with_others, nothing):
        assert rounded(plan, 16) is plan


def test_a_plan_is_computed_apart_from_the_rest():
    program = gw.Pipeline(PACKED).run(gw.capture(_bert()), validate=False).program
    function = CudaFunction(program, FoldedFunction(program, "all"), "graphs")
    names = [str(node.target) for node in function._body.module.graph.nodes]
    assert not any("token_plan" in name for name in names)
    inputs = [torch.randint(0, 50, (3, 8)), _mask(3, 8)]
    with torch.no_grad():
        split = function._body(inputs, [*function._current(), *function._prelude(inputs)])
        torch.testing.assert_close(split[0], flat_function(program)(inputs)[0])


def test_programs_that_are_recorded():
    model = _bert()
    assert not compiles(gw.capture(model))
    assert not compiles(gw.capture(model.half()))  # its weights are not on a GPU


@on_gpu
@pytest.mark.parametrize("pipeline", ["default,merge-linears", PACKED])
def test_replayed_graphs(pipeline):
    model = _bert().cuda().half()
    program = gw.Pipeline(pipeline).run(gw.capture(model), validate=False).program
    artifact = gw.target("eager{compile=graphs}").lower(program)
    for _ in range(2):
        for rows, length in ((4, 9), (3, 16)):
            mask = _mask(rows, length).cuda()
            inputs = {"input_ids": torch.randint(0, 50, (rows, length)).cuda(), "attention_mask": mask}
            with torch.no_grad():
                expected, actual = model(**inputs)[0], artifact(**inputs)[0]
            torch.testing.assert_close(actual[mask == 1], expected[mask == 1], rtol=1e-2, atol=1e-2)
    assert not artifact._call._failed
