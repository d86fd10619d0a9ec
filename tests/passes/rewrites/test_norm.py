"""RMS norms and layer norms in the spellings of transformers models, and near misses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

WIDTH = 16
HALF = [torch.float16, torch.bfloat16]
ALL = [torch.float32, torch.float64, *HALF]


def weight(dtype, shift=0.0):
    return nn.Parameter((torch.randn(WIDTH, generator=torch.Generator().manual_seed(1)) + shift).to(dtype))


def data(dtype):
    return (3 * torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(2))).to(dtype)


def llama(self, x):
    wide = x.to(torch.float32) if x.dtype in HALF else x
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return self.weight * wide.to(x.dtype)


def gemma(self, x):
    wide = x.float() if x.dtype in HALF else x
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (normed * (1.0 + self.weight.to(normed.dtype))).type_as(x)


def olmo(self, x):
    wide = x.float() if x.dtype in HALF else x
    variance = wide.pow(2).mean(-1, keepdim=True)
    return (self.weight * (wide * torch.rsqrt(variance + 1e-6))).to(x.dtype)


def t5(self, x):
    wide = x.float() if x.dtype in HALF else x
    x = x * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return self.weight * x.to(self.weight.dtype)


def divided(self, x):
    wide = x.float() if x.dtype in HALF else x
    return (wide / torch.sqrt((wide * wide).mean(-1, True) + 1e-6) * self.weight).to(x.dtype)


def powered(self, x):
    wide = x.float() if x.dtype in HALF else x
    return (wide * torch.pow(wide.pow(2).mean(-1, keepdim=True) + 1e-6, -0.5) * self.weight).to(x.dtype)


def bare(self, x):
    wide = x.float() if x.dtype in HALF else x
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) + 0 * self.weight[0]


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("norm", [llama, gemma, olmo, t5, divided, powered, bare], ids=lambda norm: norm.__name__)
def test_rms_norms(trace, rewrite, norm, dtype):
    done = rewrite(trace(norm, data(dtype), dynamic=(0, 1), weight=weight(dtype)), "fuse-norm")
    assert done.ops("rms_norm") == 1
    assert sum(done.fired.values()) == 1
    assert not any(done.ops(name) for name in ("rsqrt", "mean", "sqrt", "pow"))


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_the_same_roundings_as_the_model(trace, rewrite, dtype):
    """Casting before or after the weight are two things; each stays bit for bit what it was."""
    before, after = (rewrite(trace(norm, data(dtype), weight=weight(dtype)), "fuse-norm") for norm in (llama, olmo))
    assert before.error == after.error == 0
    assert before.ops("mul") == 1 and after.ops("mul") == 0


def layer(self, x):
    centred = x - x.mean(-1, keepdim=True)
    return self.weight * (centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)) + self.bias


def layer_var(self, x):
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) * self.weight


def layer_correction(self, x):
    variance = torch.var(x, dim=-1, keepdim=True, correction=0)
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(variance + 1e-5) + self.bias


def layer_bare(self, x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


def layer_cast(self, x):
    wide = x.float() if x.dtype in HALF else x
    centred = wide - wide.mean(-1, keepdim=True)
    normed = centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)
    return (self.weight.to(wide.dtype) * normed).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "norm", [layer, layer_var, layer_correction, layer_bare, layer_cast], ids=lambda norm: norm.__name__
)
def test_layer_norms(trace, rewrite, norm, dtype):
    done = rewrite(trace(norm, data(dtype), dynamic=(0,), weight=weight(dtype), bias=weight(dtype, 2.0)), "fuse-norm")
    assert done.ops("layer_norm") == 1
    assert sum(done.fired.values()) == 1


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_widened_layer_norm(trace, rewrite, dtype):
    done = rewrite(trace(layer_cast, data(dtype), weight=weight(dtype)), "fuse-norm")
    assert done.fired == {"LayerNormNarrowed": 1} and done.ops("to") == 0


def unbiased(self, x):
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + 1e-5) * self.weight


def eps_outside(self, x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False).sqrt() + 1e-5) * self.weight


def other_axis(self, x):
    return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6) * self.weight


def summed(self, x):
    return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6) * self.weight


def shared(self, x):
    variance = x.pow(2).mean(-1, keepdim=True)
    return x * torch.rsqrt(variance + 1e-6) * self.weight + variance


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (unbiased, "divides by n"),
        (eps_outside, "found add.Tensor"),
        (other_axis, "argument dim of mean"),
        (summed, "expected mean, found sum"),
        (shared, "%mean is also used by"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_near_misses_say_why(trace, rewrite, norm, reason):
    done = rewrite(trace(norm, data(torch.float32), weight=weight(torch.float32)), "fuse-norm")
    assert not done.fired
    assert reason in done.reasons


def narrow_variance(self, x):
    """The double-precision T5: the variance is taken in float32."""
    return self.weight * (x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6))


def all_in_half(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def test_what_computes_in_another_precision_stays(trace, rewrite):
    done = rewrite(trace(narrow_variance, data(torch.float64), weight=weight(torch.float64)), "fuse-norm")
    assert not done.fired
    done = rewrite(trace(all_in_half, data(torch.bfloat16), weight=weight(torch.bfloat16)), "fuse-norm")
    assert not done.fired and "the mean is taken in torch.bfloat16" in done.reasons


def test_gradients_are_those_of_the_model(trace, rewrite):
    parameter, x = weight(torch.float64), data(torch.float64).requires_grad_()
    program = trace(gemma, x, weight=parameter)
    fused = rewrite(program, "fuse-norm").program
    grads = [torch.autograd.grad(one.run(x).square().sum(), [x, parameter]) for one in (program, fused)]
    for expected, actual in zip(*grads, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
