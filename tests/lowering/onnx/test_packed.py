"""Packed linears in ONNX against the packed reference, from one saved program."""

from __future__ import annotations

import pytest
import torch

import graphwright as gw
from graphwright.ir.packed import pack_codes

packed_linear = torch.ops.graphwright.packed_linear.default


class Layer(torch.nn.Module):
    def __init__(self, bits, asymmetric=False, scattered=False, group_size=32, outputs=48, inputs=96):
        super().__init__()
        self.bits, self.group_size, groups = bits, group_size, inputs // group_size
        self.register_buffer("packed_weight", pack_codes(torch.randint(0, 2**bits, (outputs, inputs)), bits))
        self.register_buffer("scales", torch.rand(outputs, groups).half())
        zeros = torch.randint(0, 2**bits, (outputs, groups), dtype=torch.uint8)
        self.register_buffer("zeros", zeros if asymmetric else None)
        index = (torch.randperm(inputs) % groups).int()
        self.register_buffer("group_index", index if scattered else None)
        self.register_buffer("bias", torch.randn(outputs))

    def forward(self, x):
        tensors = (self.packed_weight, self.scales, self.zeros, self.group_index, self.bias)
        return packed_linear(x, *tensors, self.bits, self.group_size)


def saved(folder, layer):
    program = gw.capture(layer.eval(), (torch.randn(2, 3, 96),))
    return gw.Program.load(program.save(folder / "program"))


@pytest.mark.parametrize("packed", ["dequantize", "matmulnbits"])
@pytest.mark.parametrize(("bits", "asymmetric"), [(2, True), (3, False), (4, False), (4, True), (8, False)])
def test_onnx_runtime_computes_the_packed_linear(tmp_path, packed, bits, asymmetric):
    torch.manual_seed(bits)
    program = saved(tmp_path, Layer(bits, asymmetric))
    artifact = gw.target(f"onnx{{packed={packed}}}").lower(program)
    artifact.save(tmp_path / "onnx")
    for x in (torch.randn(1, 1, 96), torch.randn(4, 7, 96)):
        expected = program.run(x)
        for candidate in (artifact, gw.load_artifact(tmp_path / "onnx")):
            (result,) = candidate.run(x=x).values()
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("packed", ["dequantize", "matmulnbits"])
def test_scattered_groups_become_an_order_of_the_input(tmp_path, packed):
    torch.manual_seed(0)
    program = saved(tmp_path, Layer(4, asymmetric=True, scattered=True))
    x = torch.randn(2, 5, 96)
    expected = program.run(x)
    (result,) = gw.target(f"onnx{{packed={packed}}}").lower(program).run(x=x).values()
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_onnx_runtime_fuses_the_standard_form(tmp_path):
    """The file is as small as the codes, and the optimized graph has one MatMulNBits."""
    import onnx
    import onnxruntime

    program = saved(tmp_path, Layer(4, outputs=128))
    gw.target("onnx").lower(program).save(tmp_path / "onnx")
    file = next((tmp_path / "onnx").glob("*.onnx"))
    assert file.stat().st_size < 128 * 96 * 0.5 + 8000
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert "MatMulNBits" in kinds and "MatMul" not in kinds
