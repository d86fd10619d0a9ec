"""Packed linears on a GPU: each form against the reference; without a GPU, what stands in for a form that fails."""

from __future__ import annotations

import logging

import pytest
import torch

from graphwright.ir.packed import pack_codes, packed_linear
from graphwright.lowering.eager.packed import cuda
from graphwright.lowering.eager.packed.blocks import blocks_of
from graphwright.lowering.eager.packed.cuda import CudaPackedCall


def weight(bits, group_size, asymmetric=False, scattered=False, outputs=96, inputs=512, device="cpu"):
    torch.manual_seed(bits)
    groups = inputs // group_size
    zeros = torch.randint(0, 2**bits, (outputs, groups), dtype=torch.uint8, device=device) if asymmetric else None
    index = (torch.randperm(inputs) % groups).int().to(device) if scattered else None
    codes = pack_codes(torch.randint(0, 2**bits, (outputs, inputs)), bits).to(device)
    return codes, torch.rand(outputs, groups, device=device).half(), zeros, index


@pytest.fixture(autouse=True)
def nothing_refused(monkeypatch):
    monkeypatch.setattr(cuda, "_REFUSED", set())


def test_blocks_hold_columns_as_tensor_cores_do():
    codes = torch.randint(0, 16, (3, 256), dtype=torch.uint8)
    words = blocks_of(codes).view(torch.int32).reshape(3, 2, 4, 4)
    for c, m, p, e in [(0, 0, 0, 0), (1, 2, 3, 0), (3, 3, 3, 1), (2, 0, 1, 1)]:
        found = words[:, :, c, m] >> 4 * (p + 4 * e) & 15
        assert torch.equal(
            found, codes.reshape(3, 2, 128)[:, :, 64 * (p // 2) + 16 * m + 8 * (p % 2) + 2 * c + e].int()
        )


def test_a_form_that_does_not_run_is_left_out_and_said(caplog):
    """On CPU tensors no form runs; the reference serves."""
    parts, x = weight(4, 128), torch.randn(2, 512).bfloat16()
    call = CudaPackedCall(4, 128)
    with caplog.at_level(logging.WARNING, "graphwright"):
        for _ in range(4):
            assert torch.equal(call(x, *parts, None), packed_linear(x, *parts, None, 4, 128))
    assert len(caplog.records) == 2 and {"few", "spread"} == cuda._REFUSED


def test_a_form_that_computes_something_else_is_left_out(monkeypatch, caplog):
    parts, x = weight(4, 128), torch.randn(2, 512).bfloat16()
    monkeypatch.setattr(CudaPackedCall, "_run", lambda self, *_: torch.zeros(2, 96).bfloat16())
    call = CudaPackedCall(4, 128)
    assert torch.equal(call(x, *parts, None), packed_linear(x, *parts, None, 4, 128))
    assert "differs" in caplog.text and "few" in cuda._REFUSED


def test_every_kernel_of_a_form_is_checked(caplog):
    """A tile that computes nonsense is found although another of the same form was right."""
    checked, x = cuda.Checked(), torch.zeros(1)
    good, bad = (lambda: torch.ones(2)), (lambda: torch.full((2,), float("nan")))
    for kernel, run in (("small", good), ("large", bad)):
        assert torch.equal(checked("few", run, good, x, kernel), good())
    assert "differs by nan" in caplog.text and {"few"} == cuda._REFUSED


@pytest.mark.parametrize(("outputs", "inputs"), [(14336, 4096), (4096, 14336), (4096, 4096), (256, 512)])
def test_tiles_fit_what_the_kernel_reads(outputs, inputs):
    for rows in (2, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257, 512):
        tile = cuda.tile_sizes(rows, outputs, inputs)
        assert tile["rows"] % (16 * tile["warps"]) == 0 and tile["columns"] >= 16
        assert -(-outputs // tile["rows"]) * -(-rows // tile["columns"]) <= cuda._MOST_TILES


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize(("asymmetric", "scattered"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
def test_every_form_computes_the_packed_linear(dtype, bits, asymmetric, scattered, group_size):
    parts = weight(bits, group_size, asymmetric, scattered, outputs=8192, inputs=2048, device="cuda")
    bias = torch.randn(8192, device="cuda", dtype=dtype)
    call = CudaPackedCall(bits, group_size)
    for rows in (1, 3, 16, 30, 40, 100, 200, 300, 600):
        x = torch.randn(rows, 2048, device="cuda", dtype=dtype)
        expected = packed_linear(x.double(), *parts, bias.double(), bits, group_size)
        for _ in range(2):
            difference = (call(x, *parts, bias).double() - expected).abs().max()
            assert difference < 1.5e-2 * expected.abs().max(), rows
    assert not cuda._REFUSED


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("outputs", "inputs"), [(14336, 4096), (4096, 14336)])
@pytest.mark.parametrize("rows", [32, 64, 128, 256, 512])
def test_products_are_the_same_each_time(outputs, inputs, rows):
    """Several programs on each multiprocessor: tensor cores come late to the registers that they read."""
    parts = weight(4, 128, False, False, outputs=outputs, inputs=inputs, device="cuda")
    x = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)
    call = CudaPackedCall(4, 128)
    first = call(x, *parts, None)
    assert all(torch.equal(call(x, *parts, None), first) for _ in range(200))
