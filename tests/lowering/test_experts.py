"""Mixtures of experts in plain operators: the same numbers as the ops that they stand for, and whole models."""

from __future__ import annotations

import pytest
import torch

import graphwright as gw
from graphwright.lowering.experts import counts, grouped_product


def test_rows_meet_the_matrix_of_their_group():
    torch.manual_seed(0)
    rows, matrices = torch.randn(9, 5, dtype=torch.float64), torch.randn(4, 5, 3, dtype=torch.float64)
    ends = torch.tensor([2, 2, 7, 8], dtype=torch.int32)
    expected = torch.cat([rows[:2] @ matrices[0], rows[2:7] @ matrices[2], rows[7:8] @ matrices[3], torch.zeros(1, 3)])
    torch.testing.assert_close(grouped_product(rows, matrices, ends), expected)
    bias = torch.randn(3, dtype=torch.float64)
    torch.testing.assert_close(grouped_product(rows, matrices, ends, bias), expected + bias)


@pytest.mark.parametrize(("bins", "low", "high"), [(4, 0, 3), (8, 0, 7), (3, -1, 2)])
def test_counts_are_those_of_histc(bins, low, high):
    values = torch.randint(-2, 9, (40,), generator=torch.Generator().manual_seed(1)).float()
    assert torch.equal(counts(values, bins, low, high), torch.histc(values, bins, low, high))


@pytest.mark.parametrize("target", ["onnx", "openvino", "tflite"])
def test_a_mixture_of_experts_is_lowered(target):
    from transformers import MixtralConfig, MixtralForCausalLM

    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino", "tflite": "ai_edge_litert"}[target])
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 60}
    config = MixtralConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, num_local_experts=4)
    model = MixtralForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    gw.compare(model, gw.target(target).lower(gw.Pipeline("default").run(gw.capture(model)).program))
