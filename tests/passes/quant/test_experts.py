"""Experts whose weights are one tensor: each is quantized for the tokens that are routed to it."""

from __future__ import annotations

import pytest
import torch

from graphwright import Pipeline, Program, capture
from graphwright.passes.quant.calibrate import Calibration
from graphwright.passes.quant.experts import ExpertMoments, as_experts, as_matrix, solve_experts
from graphwright.passes.quant.gptq import QuantizeGptq
from graphwright.passes.quant.options import Options
from graphwright.passes.quant.rounding import round_to_nearest
from graphwright.passes.quant.rtn import QuantizeRtn
from graphwright.passes.quant.solver import solve

EXPERTS = 4


def mixtral():
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=EXPERTS, num_experts_per_tok=2, max_position_embeddings=64,
        attn_implementation="eager",
    )  # fmt: skip
    model = MixtralForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3) if parameter.dim() > 1 else None
    return model


def program_of(model):
    program = capture(model, {"input_ids": torch.zeros(2, 12, dtype=torch.long)})
    return Pipeline("canonicalize,fuse-attention").run(program, validate=False).program


def batches(count=6):
    generator = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(0, 96, (4, 24), generator=generator)} for _ in range(count)]


@pytest.fixture(scope="module")
def program():
    return program_of(mixtral())


def quantized(program, pass_):
    result = Pipeline([pass_]).run(program.clone(), validate=False)
    return result.program, result.trace.records[-1].notes["quantization"]


def test_matrices_and_experts():
    weight = torch.randn(3, 5, 7)
    assert torch.equal(as_experts(as_matrix(weight), 3), weight)
    assert torch.equal(as_matrix(weight)[7:14], weight[1].T)


def test_every_expert_has_the_moments_of_its_rows():
    x, ends = torch.randn(9, 5), torch.tensor([4, 4, 9])
    moments = ExpertMoments(3)
    for _ in range(2):
        moments.add(x, ends)
    assert moments.tokens.tolist() == [8, 0, 10]
    for found, rows in zip(moments.hessian, (x[:4], x[4:4], x[4:]), strict=True):
        torch.testing.assert_close(found, 2 * (rows.T @ rows).double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_experts_are_solved_one_by_one_and_rounded_without_tokens(symmetric):
    torch.manual_seed(0)
    options = Options(group_size=16, symmetric=symmetric, order="act")
    weight, x, ends = torch.randn(3 * 8, 32), torch.randn(200, 32), torch.tensor([120, 120, 200])
    moments = ExpertMoments(3)
    moments.add(x, ends)
    found = solve_experts(weight, moments, options)
    static = Options(group_size=16, symmetric=symmetric, order="static")
    first = solve(weight[:8], (x[:120].T @ x[:120]), static)
    assert torch.equal(found.codes[:8], first.codes) and torch.equal(found.scales[:8], first.scales)
    assert torch.equal(found.codes[8:16], round_to_nearest(weight[8:16], static).codes)
    assert found.group_index is None


def test_rounding_covers_experts_and_leaves_the_router(program):
    result, report = quantized(program, QuantizeRtn(group_size=32))
    paths = {row["path"] for row in report["rows"]}
    assert "model.layers.0.mlp.experts.gate_up_proj" in paths and "model.layers.1.mlp.experts.down_proj" in paths
    assert not any(path.endswith("mlp.gate") for path in paths)
    assert "model.layers.0.mlp.experts.gate_up_proj" not in result.state
    packed = [value for name, value in result.state.items() if "gate_up_proj" in name and value.dtype == torch.uint8]
    assert [value.shape for value in packed] == [(EXPERTS * 192, 32)] * 2


def test_gptq_keeps_experts_better_than_rounding(program):
    """Divergence on held-out tokens, and the same logits from the packed program as from the report's weights."""
    options = {"bits": 3, "group_size": 32, "heldout": batches(7)[-1:]}
    _, rounded = quantized(program, QuantizeRtn(**options))
    result, report = quantized(program, QuantizeGptq(calibration=Calibration(batches()), **options))
    assert report["quality"]["kl"] < 0.8 * rounded["quality"]["kl"]
    ids = batches(7)[-1]["input_ids"]
    wanted, found = (p.run(input_ids=ids)["logits"].log_softmax(-1) for p in (program, result))
    kl = (wanted.exp() * (wanted - found)).sum(-1)[:, :-1].mean()
    assert float(kl) == pytest.approx(report["quality"]["kl"], rel=1e-3)


def test_experts_can_be_left_out(program):
    result, _ = quantized(program, QuantizeRtn(group_size=32, experts=False))
    assert "model.layers.0.mlp.experts.gate_up_proj" in result.state


def test_packed_experts_are_saved_with_the_program(program, tmp_path):
    result, _ = quantized(program, QuantizeRtn(group_size=32, symmetric=False))
    result.save(tmp_path / "program")
    ids = batches(1)[0]["input_ids"]
    torch.testing.assert_close(
        Program.load(tmp_path / "program").run(input_ids=ids)["logits"], result.run(input_ids=ids)["logits"],
        rtol=0, atol=0,
    )  # fmt: skip
