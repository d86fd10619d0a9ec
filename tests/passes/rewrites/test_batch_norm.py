"""Batch norms folded into their neighbours."""

from __future__ import annotations

import pytest
import torch
from torch import nn

IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def trained(model, training=False):
    """The model with statistics and weights that are not those of initialisation."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise)
    return model.train(training)


CONVOLUTIONS = {
    "plain": (nn.Conv2d(3, 5, 3), IMAGE),
    "no_bias": (nn.Conv2d(3, 5, 3, bias=False), IMAGE),
    "grouped": (nn.Conv2d(3, 6, 3, groups=3, stride=2, padding=1), IMAGE),
    "same": (nn.Conv2d(3, 5, 3, padding="same"), IMAGE),
    "one": (nn.Conv1d(3, 5, 3), IMAGE[0].permute(0, 2, 1).contiguous()[:2, :3].contiguous()),
    "three": (nn.Conv3d(3, 5, 3), torch.randn(2, 3, 5, 5, 5)),
}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_behind_a_convolution(trace_module, rewrite, name, affine):
    conv, x = CONVOLUTIONS[name]
    model = trained(nn.Sequential(conv, NORMS[x.dim() - 2](conv.out_channels, affine=affine), nn.ReLU())).double()
    program = trace_module(model, x.double(), dynamic=(0,))
    done = rewrite(program, "fold-batch-norm")
    assert done.fired == {"FuseBatchNormInConv": 1} and done.ops("batch_norm") == 0
    assert dict(done.program.state) == dict(program.state)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_around_a_linear(trace_module, rewrite, affine, bias):
    before = [nn.BatchNorm1d(8, affine=affine), nn.Linear(8, 5, bias=bias)]
    after = [nn.Linear(5, 6, bias=bias), nn.BatchNorm1d(6, affine=affine)]
    model = trained(nn.Sequential(*before, nn.ReLU(), *after)).double()
    done = rewrite(trace_module(model, ROWS.double(), dynamic=(0,)), "fold-batch-norm")
    assert done.fired == {"FuseBatchNormInLinear": 1, "FuseLinearAfterBatchNorm": 1}
    assert done.ops("batch_norm") == 0


def test_the_decomposed_op(trace, rewrite):
    def spell(self, x):
        y = nn.functional.conv2d(x, self.w)
        return torch.ops.aten._native_batch_norm_legit_no_training(y, self.s, None, self.m, self.v, 0.1, 1e-5)[0]

    state = {"w": nn.Parameter(torch.randn(5, 3, 3, 3).double()), "s": nn.Parameter(torch.randn(5).double())}
    state |= {"m": torch.randn(5).double(), "v": torch.rand(5).double() + 0.5}
    done = rewrite(trace(spell, IMAGE.double(), **state), "fold-batch-norm")
    assert done.fired == {"FuseBatchNormInConv": 1}


def test_gradients_still_reach_the_weights(trace_module, rewrite):
    model = trained(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))).double()
    program = trace_module(model, IMAGE.double())
    folded = rewrite(program, "fold-batch-norm").program
    weights = list(model.parameters())
    grads = [torch.autograd.grad(one.run(IMAGE.double()).square().sum(), weights) for one in (program, folded)]
    for expected, actual in zip(*grads, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


class Fork(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


class Sequence(nn.Module):
    """A linear on [batch, sequence, features], whose axis 1 batch norm takes for the channels."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 6), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.linear(x))


class Untracked(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, track_running_stats=False))


@pytest.mark.parametrize(
    ("model", "x", "reason"),
    [
        (Fork(), IMAGE, "is also used by"),
        (Sequence(), torch.randn(3, 4, 8), "has rank 3"),
        (Untracked(), IMAGE, "training mode"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_near_misses_say_why(trace_module, rewrite, model, x, reason):
    done = rewrite(trace_module(trained(model), x), "fold-batch-norm")
    assert not done.fired and reason in done.reasons
