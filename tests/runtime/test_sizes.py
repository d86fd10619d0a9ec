"""A graph serves only the sizes it was proved or seen to be valid for."""

from __future__ import annotations

import torch
from torch import nn

from graphwright.runtime.optimize import dispatcher_of, optimize


def assert_same(module, optimized, *inputs):
    for arguments in inputs:
        torch.testing.assert_close(optimized(*arguments), module(*arguments))


class Parity(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[1] % 2 == 0 else x + 1


class Threshold(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] > 5 else x + 1


class OneToken(nn.Module):
    def forward(self, x):
        return x.cumsum(0) if x.shape[0] > 1 else x * 7


class Compare(nn.Module):
    def forward(self, x, y):
        return x.sum() + 1 if x.shape[0] == y.shape[0] else y.sum() * 2


class Concatenate(nn.Module):
    def forward(self, x, y):
        return torch.cat([x, y]) * len(x)


def test_parity_of_a_size():
    module = Parity()
    optimized = optimize(module)
    assert_same(module, optimized, *[(torch.randn(3, n),) for n in (4, 6, 5, 7, 8, 9, 4)])
    assert dispatcher_of(optimized).served >= 3


def test_threshold_of_a_size():
    module = Threshold()
    optimized = optimize(module)
    assert_same(module, optimized, *[(torch.randn(n, 2),) for n in (3, 4, 6, 9, 5, 2, 12, 1, 1)])
    assert dispatcher_of(optimized).served >= 5


def test_size_one_is_its_own_case():
    module = OneToken()
    optimized = optimize(module)
    assert_same(module, optimized, *[(torch.randn(n, 2),) for n in (3, 1, 2, 1, 5)])
    assert dispatcher_of(optimized).captures == 2


def test_equal_sizes_by_chance():
    module = Compare()
    optimized = optimize(module)
    sizes = [(3, 3), (4, 4), (3, 4), (5, 6), (6, 6), (2, 9)]
    assert_same(module, optimized, *[(torch.randn(a, 2), torch.randn(b, 2)) for a, b in sizes])
    module = Concatenate()
    optimized = optimize(module)
    assert_same(module, optimized, *[(torch.randn(a, 2), torch.randn(b, 2)) for a, b in sizes])


def test_empty_inputs_go_to_the_original():
    module = Threshold()
    optimized = optimize(module)
    assert_same(
        module, optimized, (torch.randn(3, 2),), (torch.randn(0, 2),), (torch.randn(0, 2),), (torch.randn(4, 2),)
    )
    assert dispatcher_of(optimized).served == 1


def test_other_types_are_other_graphs():
    module = Threshold()
    optimized = optimize(module)
    for dtype in (torch.float32, torch.int64, torch.float64):
        assert_same(module, optimized, (torch.ones(3, 2, dtype=dtype),), (torch.ones(4, 2, dtype=dtype),))
    assert dispatcher_of(optimized).captures == 3
