"""The packed linear against a linear on the weight that its codes stand for."""

from __future__ import annotations

import pytest
import torch

from graphwright.ir import library as _library  # noqa: F401 - defines the op
from graphwright.ir.packed import pack_codes, unpack_codes

packed_linear = torch.ops.graphwright.packed_linear.default


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("inputs", [1, 21, 64])
def test_codes_survive_packing(bits, inputs):
    codes = torch.randint(0, 2**bits, (5, inputs), dtype=torch.uint8)
    weight = pack_codes(codes, bits)
    assert weight.shape == (5, -(-inputs * bits // 8)) and weight.dtype == torch.uint8
    assert torch.equal(unpack_codes(weight, bits, inputs), codes)


def test_low_bits_come_first():
    assert pack_codes(torch.tensor([[1, 2, 3]]), 4).tolist() == [[0x21, 0x03]]
    assert pack_codes(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 0]]), 3).tolist() == [[0b11010001, 0b01011000, 0b00011111]]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_packed_linear_is_the_linear_of_its_codes(bits, asymmetric, ordered):
    torch.manual_seed(0)
    codes = torch.randint(0, 2**bits, (7, 44))
    scales = torch.rand(7, 3).half()
    zeros = torch.randint(0, 2**bits, (7, 3), dtype=torch.uint8) if asymmetric else None
    groups = torch.arange(44) // 16 if ordered else torch.randperm(44) % 3
    bias, x = torch.randn(7, dtype=torch.float64), torch.randn(2, 3, 44, dtype=torch.float64, requires_grad=True)
    weight = torch.empty(7, 44, dtype=torch.float64)
    for n in range(7):
        for k in range(44):
            group = int(groups[k])
            zero = int(zeros[n, group]) if zeros is not None else 2 ** (bits - 1)
            weight[n, k] = (int(codes[n, k]) - zero) * float(scales[n, group])
    index = None if ordered else groups.int()
    result = packed_linear(x, pack_codes(codes, bits), scales, zeros, index, bias, bits, 16)
    torch.testing.assert_close(result, x @ weight.T + bias, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(result.sum(), x)
    torch.testing.assert_close(gradient, weight.sum(0).expand_as(x), rtol=1e-12, atol=1e-12)


def test_export_keeps_one_call():
    class Layer(torch.nn.Module):
        def forward(self, x, weight, scales):
            return packed_linear(x, weight, scales, None, None, None, 4, 8)

    weight, scales = torch.zeros(6, 4, dtype=torch.uint8), torch.ones(6, 1)
    program = torch.export.export(Layer(), (torch.ones(2, 8), weight, scales), strict=False)
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert calls == [packed_linear]
