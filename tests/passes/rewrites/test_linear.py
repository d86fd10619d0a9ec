"""Biases, products with weights, divisions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

aten = torch.ops.aten
X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def parameter(*sizes, seed=1):
    return nn.Parameter(torch.randn(*sizes, generator=torch.Generator().manual_seed(seed)))


class TestBias:
    def test_an_added_bias_becomes_part_of_the_linear(self, trace, rewrite):
        def spell(self, x):
            return self.b + nn.functional.linear(x, self.w)

        done = rewrite(trace(spell, X, w=parameter(4, 8), b=parameter(4)), "fuse-bias")
        assert done.fired == {"FuseBiasInLinear": 1} and done.ops("add") == 0

    def test_near_misses(self, trace, rewrite):
        def two_biases(self, x):
            return nn.functional.linear(x, self.w, self.b) + self.b

        def used_twice(self, x):
            y = nn.functional.linear(x, self.w)
            return y + self.b + y.relu()

        def one_for_all(self, x):
            return nn.functional.linear(x, self.w) + self.b[:1]

        state = {"w": parameter(4, 8), "b": parameter(4)}
        reasons = ["expected None", "is also used by", "one element per output feature"]
        for spell, reason in zip([two_biases, used_twice, one_for_all], reasons, strict=True):
            done = rewrite(trace(spell, X, **state), "fuse-bias")
            assert not done.fired and reason in done.reasons

    def test_into_the_weight(self, trace_module, rewrite):
        model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
        program = trace_module(model, X, dynamic=(0,))
        done = rewrite(program, "fuse-bias{into=weight}")
        assert done.fired == {"BiasIntoWeight": 2}
        assert all(
            len(node.args) == 2
            for node in done.program.graph.find_nodes(op="call_function", target=aten.linear.default)
        )
        assert {name: id(value) for name, value in done.program.state.items()} == {
            name: id(value) for name, value in program.state.items()
        }

    def test_undo(self, trace, rewrite):
        program = trace(lambda self, x: nn.functional.linear(x, self.w) + self.b, X, w=parameter(4, 8), b=parameter(4))
        done = rewrite(program, "fuse-bias{into=weight}")
        assert [str(n) for n in done.result.undo("fuse-bias").nodes] == [str(n) for n in program.nodes]


class TestProducts:
    def test_conv1d_of_gpt2(self, trace_module, rewrite):
        from transformers.pytorch_utils import Conv1D

        model = Conv1D(6, 8)
        done = rewrite(trace_module(model, X, dynamic=(0, 1)), "conv1d-to-linear")
        assert done.fired == {"Conv1dToLinear": 1}
        assert done.ops("linear") == 1 and not done.ops("reshape") and not done.ops("addmm")

    @pytest.mark.parametrize(
        ("spell", "x"),
        [
            (lambda self, x: torch.addmm(self.b, x, self.w), X[0]),
            (lambda self, x: torch.mm(x, self.w), X[0]),
            (lambda self, x: x @ self.w, X[0]),
            (lambda self, x: x @ self.w, X),
            (lambda self, x: x @ self.v.t(), X),
            (lambda self, x: x @ (self.w * 2), X),
        ],
    )
    def test_products_with_a_weight(self, trace, rewrite, spell, x):
        state = {"w": parameter(8, 6), "v": parameter(6, 8), "b": parameter(6)}
        done = rewrite(trace(spell, x, dynamic=(0,), **state), "conv1d-to-linear,canonicalize")
        assert done.ops("linear") == 1
        assert not any(done.ops(name) for name in ("addmm", "mm", "matmul"))

    def test_a_transposed_weight_is_transposed_back(self, trace, rewrite):
        done = rewrite(trace(lambda self, x: x @ self.v.t(), X, v=parameter(6, 8)), "conv1d-to-linear,canonicalize")
        assert not done.ops("transpose")

    def test_products_of_two_inputs_stay(self, trace, rewrite):
        done = rewrite(trace(lambda x, y: x @ y, X, X[0].T.contiguous()), "conv1d-to-linear")
        assert not done.fired and "it is no weight" in done.reasons

    def test_scaled_addmm_stays(self, trace, rewrite):
        def scaled(self, x):
            return torch.addmm(self.b, x, self.w, alpha=2)

        done = rewrite(trace(scaled, X[0], w=parameter(8, 6), b=parameter(6)), "conv1d-to-linear")
        assert not done.fired and "argument alpha of addmm is 2" in done.reasons

    def test_a_reshape_that_moves_features_stays(self, trace, rewrite):
        def moved(self, x):
            return torch.addmm(self.b, x.reshape(-1, 4), self.w).reshape(2, 10, 6)

        done = rewrite(trace(moved, X, w=parameter(4, 6), b=parameter(6)), "conv1d-to-linear")
        assert done.fired == {"AddmmToLinear": 1} and done.ops("reshape") == 2


class TestDivision:
    @pytest.mark.parametrize("divisor", [8, 0.25, -2.0, 1024])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
    def test_powers_of_two_are_exact(self, trace, rewrite, divisor, dtype):
        done = rewrite(trace(lambda x: x / divisor, X.to(dtype)), "div-to-mul")
        assert done.fired == {"ChangeTrueDivToMulByInverse": 1} and done.error == 0

    def test_a_tensor_without_dimensions(self, trace, rewrite):
        done = rewrite(trace(lambda self, x: x / self.c, X, c=torch.tensor(4.0)), "div-to-mul")
        assert done.ops("div") == 0

    def test_other_divisors_only_when_asked(self, trace, rewrite):
        program = trace(lambda x: x / 3.0, X.double())
        done = rewrite(program, "div-to-mul")
        assert not done.fired and "not exact in binary" in done.reasons
        assert rewrite(program, "div-to-mul{exact=false}").ops("div") == 0

    @pytest.mark.parametrize(
        ("spell", "reason"),
        [
            (lambda x: x / 0.0, "has no inverse"),
            (lambda x: x / 2.0**-140, "out of the range"),
            (lambda x: torch.div(x, 2, rounding_mode="floor"), ""),
            (lambda x: x / x.sum(), "expected a constant number"),
            (lambda x: 2 / x, ""),
        ],
    )
    def test_near_misses(self, trace, rewrite, spell, reason):
        done = rewrite(trace(spell, X), "div-to-mul")
        assert not done.fired and reason in done.reasons
