"""Neural Compressor's algorithms on a tiny decoder: the codes stand for what it computed, and keep the outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import graphwright as gw
from graphwright.ir.errors import PassError
from graphwright.ir.node import is_call
from graphwright.passes.quant import neural_compressor
from graphwright.passes.quant.calibrate import Calibration
from graphwright.passes.quant.inc import QuantizeInc
from graphwright.passes.quant.options import Options

pytest.importorskip("neural_compressor")
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
packed_linear = torch.ops.graphwright.packed_linear.default


@pytest.fixture(scope="module")
def program():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return gw.Pipeline("canonicalize,fuse-attention").run(gw.capture(model), validate=False).program


@pytest.fixture(scope="module")
def batches():
    ids = torch.randint(0, 96, (2, 4, 24), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids[0])
    mask[:2, :7] = 0
    return [{"input_ids": ids[0], "attention_mask": mask}, {"input_ids": ids[1], "attention_mask": mask}]


@pytest.fixture(scope="module")
def layer():
    """A weight, and inputs of which some features are large."""
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(256, 64, generator=generator) * torch.linspace(0.1, 4, 64)
    return torch.randn(48, 64, generator=generator), inputs


def error(weight, other, inputs):
    return float(((weight - other) @ inputs.T).norm() / (weight @ inputs.T).norm())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "limit"), [(2, 0.8), (3, 0.3), (4, 0.12), (8, 0.05)])
def test_codes_stand_for_the_weight(layer, bits, limit, symmetric):
    weight, inputs = layer
    options = Options(bits=bits, group_size=32, symmetric=symmetric, order="act", damping=0.01)
    (scaled, factor), _ = neural_compressor.activation_aware([weight, weight[:8]], [inputs[None]], options)
    found = {
        "rtn": neural_compressor.round_to_nearest(weight, options).dequantize(),
        "hqq": neural_compressor.half_quadratic(weight, options).dequantize(),
        "gptq": neural_compressor.gptq(weight, inputs.T @ inputs, options).dequantize(),
        "awq": scaled.dequantize() * factor,
    }
    errors = {name: error(weight, other, inputs) for name, other in found.items()}
    assert all(0 < value < limit for value in errors.values()), errors
    assert errors["gptq"] < errors["rtn"]


def test_gptq_keeps_its_own_grid(layer):
    """What it returns as rounded weight is what the imported codes give."""
    from neural_compressor.torch.algorithms.weight_only.gptq import GPTQ

    weight, inputs = layer
    hessian, seen = inputs.T @ inputs, []

    class Recorded(GPTQ):
        def fasterquant(self, *args, **kwargs):
            seen.append(super().fasterquant(*args, **kwargs))
            return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neural_compressor.torch.algorithms.weight_only.gptq.GPTQ", Recorded)
        found = neural_compressor.gptq(weight, hessian, Options(group_size=32, order="act", scale_dtype="float32"))
    torch.testing.assert_close(found.dequantize(), seen[0][3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["rtn", "hqq", "gptq", "awq"])
def test_programs_run_on_packed_linears(program, batches, method):
    quantize = QuantizeInc(method=method, bits=8, group_size=32, calibration=Calibration(batches))
    result = gw.Pipeline([quantize]).run(program).program
    calls = [node for node in result.nodes if is_call(node, packed_linear)]
    assert len(calls) == 7
    assert any(node.name.endswith("input_scale") for node in result.nodes) == (method == "awq")
    with torch.no_grad():
        expected, actual = (p.run(**batches[0])[0] for p in (program, result))
    limit = 0.1 if method == "awq" else 0.05  # it searches how far to clip as if codes had 4 bits
    assert 0 < float((actual - expected).norm() / expected.norm()) < limit


def test_what_it_cannot_do_is_refused(program, batches):
    with pytest.raises(PassError, match="needs calibration data"):
        gw.Pipeline("quantize-inc{method=awq}").run(program)
    with pytest.raises(PassError, match="has no order 'group'"):
        gw.Pipeline([QuantizeInc(order="group", group_size=32, calibration=Calibration(batches))]).run(program)
    with pytest.raises(PassError, match="cannot be in groups of 48"):
        gw.Pipeline("quantize-inc{method=rtn,group_size=48}").run(program)


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_inputs_are_rounded_to_8_bits(program, batches, method):
    quantize = QuantizeInc(method=method, calibration=Calibration(batches) if method == "static" else None)
    result = gw.Pipeline([quantize]).run(program).program
    assert sum(is_call(node, packed_linear) for node in result.nodes) == 7
    rounded = [node for node in result.nodes if is_call(node, torch.ops.aten.round)]
    assert len(rounded) == (4 if method == "static" else 8)  # q/k/v, o, gate/up, down; dynamic zero points are rounded
    with torch.no_grad():
        expected, actual = (p.run(**batches[0])[0] for p in (program, result))
    assert 0 < float((actual - expected).norm() / expected.norm()) < 0.1


def test_dynamic_ranges_follow_the_inputs():
    """Rounding to 8 bits is exact for inputs that are codes, whatever their size."""

    class Layer(torch.nn.Linear):
        """Not `nn.Linear` by name."""

    torch.manual_seed(0)
    layer = torch.nn.Sequential(Layer(16, 8)).eval()
    program = gw.Pipeline("canonicalize").run(gw.capture(layer, (torch.randn(4, 16),)), validate=False).program
    result = gw.Pipeline("quantize-inc{method=dynamic}").run(program).program
    codes = torch.randint(0, 256, (4, 16)) - 100.0
    codes[0, :2] = torch.tensor([-100.0, 155.0])
    weight = result.run(torch.eye(16)) - result.run(torch.zeros(16, 16))
    for scale in (1e-3, 1.0, 1e3):
        expected = codes * scale @ weight + layer[0].bias
        torch.testing.assert_close(result.run(codes * scale), expected, rtol=1e-4, atol=1e-4 * scale)


def test_nothing_is_written_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    neural_compressor.require()
    from neural_compressor.torch.algorithms.layer_wise import LWQ_WORKSPACE

    Path(LWQ_WORKSPACE).mkdir(parents=True, exist_ok=True)
    assert not list(tmp_path.iterdir())
