"""Packed linears on a CPU: every form against the reference, and which form runs."""

from __future__ import annotations

import pytest
import torch

import graphwright as gw
from graphwright.ir.packed import pack_codes
from graphwright.lowering.eager.packed.cpu import PackedCall

packed_linear = torch.ops.graphwright.packed_linear.default


def weight(bits, group_size, asymmetric=False, scattered=False, outputs=64, inputs=256):
    torch.manual_seed(bits)
    groups = -(-inputs // group_size)
    zeros = torch.randint(0, 2**bits, (outputs, groups), dtype=torch.uint8) if asymmetric else None
    index = (torch.randperm(inputs) % groups).int() if scattered else None
    codes = torch.randint(0, 2**bits, (outputs, inputs))
    return pack_codes(codes, bits), torch.rand(outputs, groups).half(), zeros, index, torch.randn(outputs)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHWRIGHT_CACHE", str(tmp_path))


def forms(call):
    return {form for form, _ in call._kept.values} | set(call._chosen.values())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("asymmetric", "scattered"), [(False, False), (True, True)])
@pytest.mark.parametrize("group_size", [32, 256])
def test_float32_is_exact(bits, asymmetric, scattered, group_size):
    parts = weight(bits, group_size, asymmetric, scattered)
    for mode in ("auto", "small", "exact"):
        call = PackedCall(bits, group_size, mode)
        for shape in ((1, 256), (2, 5, 256)):
            x = torch.randn(shape)
            expected = packed_linear(x.double(), *parts[:4], parts[4].double(), bits, group_size).float()
            torch.testing.assert_close(call(x, *parts), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        assert forms(call) == {"unpack" if mode == "small" else "dense"}


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize(("asymmetric", "scattered"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(("group_size", "outputs"), [(32, 64), (64, 50), (256, 64)])
def test_bfloat16_runs_on_the_int4_kernel(bits, asymmetric, scattered, group_size, outputs):
    """The kernel rounds scales to 8 bits of mantissa, and so does the result: 2 % of the largest element."""
    *parts, bias = weight(bits, group_size, asymmetric, scattered, outputs)
    bias = bias.bfloat16()
    call = PackedCall(bits, group_size, "auto")
    for shape in ((1, 256), (2, 2, 256), (3, 40, 256)):
        x = torch.randn(shape).bfloat16()
        expected = packed_linear(x.double(), *parts, bias.double(), bits, group_size)
        result = call(x, *parts, bias)
        assert (result.double() - expected).abs().max() < 0.02 * expected.abs().max()
        assert result.is_contiguous()
    assert "int4" in forms(call)


@pytest.mark.parametrize(("asymmetric", "scattered"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("mode", ["auto", "exact"])
def test_bfloat16_runs_on_the_int8_kernel(asymmetric, scattered, mode):
    """Products and sums are exact, the result is rounded to 8 bits of mantissa twice: 1 % of the largest element."""
    *parts, bias = weight(8, 256, asymmetric, scattered, outputs=50)
    call = PackedCall(8, 256, mode)
    for shape in ((1, 256), (2, 2, 256), (3, 40, 256)):
        x = torch.randn(shape).bfloat16()
        expected = packed_linear(x.double(), *parts, bias.bfloat16().double(), 8, 256)
        result = call(x, *parts, bias.bfloat16())
        assert result.dtype is torch.bfloat16
        assert (result.double() - expected).abs().max() < 0.01 * expected.abs().max()
    assert "int8" in forms(call)


@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (8, 256)])
def test_the_slow_reference_loop_never_runs(bits, group_size):
    """With float32 activations these ops would be many times slower than a linear."""
    parts = weight(bits, group_size)
    call = PackedCall(bits, group_size, "auto")
    call(torch.randn(1, 256), *parts)
    assert forms(call) == {"dense"}


def test_a_changed_weight_is_seen():
    packed, scales, *rest = weight(4, 32)
    call, x = PackedCall(4, 32, "auto"), torch.randn(2, 256)
    call(x, packed, scales, *rest)
    scales.mul_(2)
    torch.testing.assert_close(
        call(x, packed, scales, *rest), packed_linear(x, packed, scales, *rest, 4, 32), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("options", ["packed=auto", "packed=small", "dtype=bfloat16"])
def test_the_eager_target_runs_a_saved_program(tmp_path, options):
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            names = ("packed_weight", "scales", "zeros", "group_index", "bias")
            for name, value in zip(names, weight(4, 32, asymmetric=True), strict=True):
                self.register_buffer(name, value)

        def forward(self, x):
            return packed_linear(x, self.packed_weight, self.scales, self.zeros, None, self.bias, 4, 32)

    program = gw.capture(Layer().eval(), torch.randn(3, 256))
    loaded = gw.Program.load(program.save(tmp_path / "program"))
    artifact = gw.target(f"eager{{{options}}}").lower(loaded)
    x = torch.randn(7, 256)
    with torch.no_grad():
        expected = program.run(x)
        (result,) = artifact.run(x=x).values()
    tolerance = 2e-2 if "bfloat16" in options else 1e-5
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance * float(expected.abs().max()))
