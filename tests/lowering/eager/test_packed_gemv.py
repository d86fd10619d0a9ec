"""Packed linears of one row with what surrounds them: the rewrite is exact, the kernel computes the same on a GPU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from graphwright import Pipeline, capture
from graphwright.frontends.gptq.module import PackedLinear
from graphwright.ir.packed import PackedWeight, pack_codes
from graphwright.lowering.eager.kernels.gemv_pass import FuseGemv
from graphwright.lowering.eager.packed import cuda
from graphwright.lowering.eager.packed.cuda import CudaPackedGemv
from graphwright.lowering.eager.target import EagerTarget

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels run on NVIDIA GPUs")
BEFORE = Pipeline("canonicalize,fuse-norm,fuse-activation").passes


def packed(outputs, inputs, bias=False, asymmetric=False, scattered=False, group_size=128):
    groups = inputs // group_size
    codes = pack_codes(torch.randint(0, 16, (outputs, inputs)), 4)
    zeros = torch.randint(0, 16, (outputs, groups), dtype=torch.uint8) if asymmetric else None
    index = (torch.randperm(inputs) % groups).int() if scattered else None
    weight = PackedWeight(codes, (torch.rand(outputs, groups) / 30 + 0.01).half(), zeros, index, 4, group_size, inputs)
    return PackedLinear(weight, torch.randn(outputs) if bias else None)


class Layer(nn.Module):
    """Three linears on a norm, one with a residual, a gated feed-forward."""

    def __init__(self, width=256, inner=384, **options):
        super().__init__()
        self.norm, self.other = nn.RMSNorm(width, eps=1e-5), nn.LayerNorm(width)
        self.q, self.k, self.v = (packed(n, width, True, **options) for n in (width, 72, 72))
        self.out, self.down = packed(width, width, **options), packed(width, inner, **options)
        self.gate, self.up = (packed(inner, width, **options) for _ in range(2))

    def forward(self, x):
        normed = self.norm(x)
        q, k, v = self.q(normed), self.k(normed), self.v(normed)
        x = x + self.out(q * k.sum(-1, keepdim=True).tanh() * v.mean(-1, keepdim=True).tanh())
        normed = self.other(x)
        return x + self.down(nn.functional.silu(self.gate(normed)) * self.up(normed))


def layer(dtype, **options):
    torch.manual_seed(0)
    model = Layer(**options)
    for norm in (model.norm, model.other):
        nn.init.normal_(norm.weight)
    return model.to(dtype).eval()


def fused(model, x, dynamic=None):
    return Pipeline([*BEFORE, FuseGemv()]).run(capture(model, (x,), dynamic=dynamic)).program


def calls(program, op):
    return sum(node.target is op.default for node in program.graph.nodes)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_packed_linears_take_in_what_surrounds_them(asymmetric):
    model, x = layer(torch.float64, asymmetric=asymmetric), torch.randn(1, 1, 256, dtype=torch.float64)
    program = fused(model, x)
    assert calls(program, torch.ops.graphwright.packed_gemv) == 4
    assert calls(program, torch.ops.graphwright.packed_linear) == 0
    torch.testing.assert_close(program.run(x), model(x), rtol=1e-12, atol=1e-12)


def test_scattered_groups_stay_linears():
    model, x = layer(torch.float64, scattered=True), torch.randn(1, 1, 256, dtype=torch.float64)
    program = fused(model, x)
    assert calls(program, torch.ops.graphwright.packed_gemv) == 0
    torch.testing.assert_close(program.run(x), model(x), rtol=1e-12, atol=1e-12)


def test_more_rows_run_linear_by_linear():
    """What stands in for the kernel where there are several rows, or no GPU."""
    linears = [packed(24, 256) for _ in range(2)]
    parts = list(zip(*((m.packed_weight, m.scales, m.zeros, m.bias) for m in linears), strict=True))
    x, residual = torch.randn(3, 256), torch.randn(3, 24)
    options = {"activation": "silu", "gated": True, "residual": residual}
    found = CudaPackedGemv(4, 128, 2)(x, *map(list, parts), 4, 128, **options)
    wanted = residual + nn.functional.silu(linears[0](x)) * linears[1](x)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@needs_gpu
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_kernel_computes_the_layer(dtype, asymmetric, group_size, monkeypatch):
    monkeypatch.setattr(cuda, "_REFUSED", set())
    model = layer(dtype, asymmetric=asymmetric, group_size=group_size, width=2048, inner=6144).cuda()
    x = torch.randn(1, 1, 2048, dtype=dtype, device="cuda")
    artifact = EagerTarget().emit(fused(model, x))
    with torch.no_grad():
        wanted = copy.deepcopy(model).double()(x.double())
        for _ in range(2):
            (found,) = artifact.flat([x])
            assert (found.double() - wanted).abs().max() < 3e-2 * wanted.abs().max()
    assert not cuda._REFUSED
