"""Activations, norms and rotary embeddings as transformers models spell them, written as patterns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from graphwright.ir.rewriter import Rewriter
from graphwright.passes.patterns import Match, Rule, any_of, apply_rules, aten, find, maybe, number, tensor
from graphwright.passes.patterns.idioms import cast, dropout_off, maybe_cast, minus, square, times


class ErfGelu(Rule):
    """x * 0.5 * (1 + erf(x / sqrt(2))) -> gelu(x)"""

    def pattern(self, x):
        gate = 1 + aten.erf(times(x, math.sqrt(0.5), tolerance=1e-4))
        return any_of(times(x, 0.5) * gate, x * times(gate, 0.5), times(x * gate, 0.5))

    def rewrite(self, m, rw):
        return rw.aten.gelu(m.x)


class TanhGelu(Rule):
    """0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))) -> gelu(x, approximate="tanh")"""

    def pattern(self, x):
        cube = any_of(x**3, square(x) * x)
        inner = x + cube * number(0.044715, 1e-3)
        return times(x, 0.5) * (1.0 + aten.tanh(inner * number(math.sqrt(2 / math.pi), 1e-3)))

    def rewrite(self, m, rw):
        return rw.aten.gelu(m.x, approximate="tanh")


class Silu(Rule):
    """x * sigmoid(x) -> silu(x)"""

    def pattern(self, x):
        return any_of(x * aten.sigmoid(x), x / (1 + aten.exp(-x)))

    def rewrite(self, m, rw):
        return rw.aten.silu(m.x)


class RmsNorm(Rule):
    """weight * (x * rsqrt(mean(x ** 2, -1) + eps)), with or without casts -> rms_norm(x)"""

    def pattern(self, x, weight, eps):
        wide = maybe_cast(tensor(x), tag="widened")
        variance = aten.mean(square(wide), [-1], True) + number(eps)
        normed = any_of(wide * aten.rsqrt(variance), wide / aten.sqrt(variance))
        return tensor(weight, rank=1) * maybe_cast(normed, tag="narrowed")

    def check(self, m):
        m.require(m.eps > 0, "eps must be positive")
        m.require(m.weight.shape[0] == m.x.shape[-1], "the weight must have the size of the last axis", at=m.weight)

    def rewrite(self, m, rw):
        return rw.aten.rms_norm(m.x, [m.weight.shape[0]], m.weight, m.eps)


class Rotary(Rule):
    """x * cos + cat(-x[half:], x[:half]) * sin"""

    def pattern(self, x, cos, sin, half):
        low, high = aten.slice(x, -1, 0, half), aten.slice(x, -1, half, ...)
        return x * cos + aten.cat([-high, low], -1) * sin

    def check(self, m):
        m.require(2 * m.half == m.x.shape[-1], "the halves must be equal", at=m.x)


class Attention(Rule):
    """softmax(q @ k.T * scale + mask) @ v"""

    def pattern(self, q, k, v, mask, scale):
        scores = q @ aten.transpose(k, -1, -2)
        scaled = any_of(scores * number(scale), scores / number(scale), scores, tag="scale")
        masked = maybe(lambda s: s + mask, scaled, tag="mask")
        weights = maybe_cast(aten.softmax(masked, -1, ...))
        return dropout_off(weights) @ v


class Functions(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


class Norm(nn.Module):
    def __init__(self, kind: str):
        super().__init__()
        self.kind, self.weight = kind, nn.Parameter(torch.randn(8) * 3)

    def forward(self, x):
        if self.kind == "llama":
            h = x.to(torch.float32)
            h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
            return self.weight * h.to(x.dtype)
        if self.kind == "sqrt":
            return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + 1e-6) * self.weight
        return x * torch.rsqrt(1e-6 + x.pow(2).mean(dim=[2], keepdim=True)) * self.weight


SPELLINGS = [
    (ErfGelu, lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))),
    (ErfGelu, lambda x: x * (0.5 * (torch.erf(x * 0.70710678) + 1))),
    (ErfGelu, lambda x: (1 + torch.erf(x / 1.41421356)) * x / 2),
    (TanhGelu, lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))),
    (TanhGelu, lambda x: x * 0.5 * (torch.tanh((x + x * x * x * 0.044715) * 0.7978845608) + 1)),
    (Silu, lambda x: torch.sigmoid(x) * x),
    (Silu, lambda x: x / (torch.exp(-x) + 1)),
]


@pytest.mark.parametrize(("rule", "function"), SPELLINGS)
def test_activations_are_recognised_and_equal(program_of, rule, function):
    x = torch.randn(3, 8, dtype=torch.float64) * 3
    program = program_of(Functions(function), x)
    assert apply_rules([rule], program, Rewriter(program)).applied == {rule.__name__: 1}
    assert sum(node.op == "call_function" for node in program.nodes) == 1
    # constants in models have 8 digits or more
    torch.testing.assert_close(program.run(x), function(x), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["llama", "sqrt", "list"])
def test_rms_norms_are_recognised_and_equal(program_of, kind):
    x = torch.randn(2, 3, 8)
    module = Norm(kind)
    program = program_of(module, x)
    (match,) = [found for found in find(RmsNorm, program.graph) if found]
    assert match.eps == 1e-6 and match.tag("narrowed") is (kind == "llama")
    assert apply_rules([RmsNorm], program, Rewriter(program)).applied == {"RmsNorm": 1}
    torch.testing.assert_close(program.run(x), module(x), rtol=1e-5, atol=1e-5)  # float32: another order of sums


def test_an_rms_norm_over_another_axis_is_a_near_miss(program_of):
    module = Functions(lambda x, w: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6) * w)
    program = program_of(module, torch.randn(2, 8, 8), torch.randn(8))
    nearest = max(find(RmsNorm, program.graph), key=lambda miss: miss.score)
    assert nearest.reason == "argument dim of mean is [1], expected [-1]"


def test_rotary_embedding_is_recognised(program_of):
    def rotary(x, cos, sin):
        low, high = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return (x * cos) + (torch.cat((-high, low), dim=-1) * sin)

    program = program_of(Functions(rotary), torch.randn(2, 3, 5, 8), torch.randn(5, 8), torch.randn(5, 8))
    (match,) = [found for found in find(Rotary, program.graph) if found]
    assert (match.x.node.name, match.cos.node.name, match.sin.node.name, match.half) == (
        "args_0",
        "args_1",
        "args_2",
        4,
    )


def attention(q, k, v, mask=None, scale="mul", dropout=False, cast=False):
    scores = q @ k.transpose(2, 3)
    scores = scores * 0.5 if scale == "mul" else scores / 2.0 if scale == "div" else scores
    scores = scores if mask is None else mask + scores
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32 if cast else None)
    weights = weights.to(torch.float32) if cast else weights
    weights = nn.functional.dropout(weights, 0.1, training=False) if dropout else weights
    return weights @ v


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("scale", "tag"), [("mul", 0), ("div", 1), ("none", 2)])
@pytest.mark.parametrize("extras", [{}, {"dropout": True, "cast": True}])
def test_attention_is_recognised(program_of, masked, scale, tag, extras):
    q, k, v, mask = (torch.randn(2, 4, 6, 6) for _ in range(4))
    function = lambda *args: attention(*args, scale=scale, **extras)  # noqa: E731
    program = program_of(Functions(function), q, k, v, *([mask] if masked else []))
    (match,) = [found for found in find(Attention, program.graph) if found]
    assert isinstance(match, Match) and match.tag("scale") == tag and match.tag("mask") is masked
    names = [getattr(value, "name", value) for value in match.captures().values()]
    assert names[:3] == ["args_0", "args_1", "args_2"] and (match.mask is not None) is masked
    assert match.scale == {"mul": 0.5, "div": 2.0, "none": None}[scale]


def test_idioms_match_all_their_spellings(g, match):
    t = torch.ops.aten
    x, y = g.input("x"), g.input("y")
    assert match(lambda x: aten.neg(cast(x)), g.call(t.neg.default, g.call(t._to_copy.default, x, dtype=torch.half)))
    assert match(lambda x: aten.neg(cast(x, torch.half)), g.call(t.neg.default, g.call(t.to.dtype, x, torch.half)))
    assert not match(
        lambda x: aten.neg(cast(x, torch.half)), g.call(t.neg.default, g.call(t.to.dtype, x, torch.double))
    )
    assert match(lambda x: minus(1, x), g.call(t.rsub.Scalar, x, 1))
    assert match(lambda x, y: minus(y, x), g.call(t.sub.Tensor, y, x)).x.node is x
    assert match(lambda x: square(x), g.call(t.mul.Tensor, x, x))
    assert not match(lambda x: square(x), g.call(t.mul.Tensor, x, y))
