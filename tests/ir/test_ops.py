from __future__ import annotations

import pytest
import torch
from torch.fx import Graph

from graphwright.ir.ops import (
    axis_arguments,
    base_name,
    is_commutative,
    is_pure,
    is_random,
    is_relayout,
    is_view,
    nearest_ops,
    swappable_arguments,
)

aten = torch.ops.aten


@pytest.mark.parametrize(
    "op", [aten.add, aten.mul.Tensor, aten.maximum, aten.eq.Tensor, aten.logical_and, aten.bitwise_or]
)
def test_commutative_ops_give_equal_results_in_both_orders(op):
    assert is_commutative(op)
    x, y = (torch.randint(0, 5, (7,)) for _ in range(2))
    assert torch.equal(op(x, y), op(y, x))


@pytest.mark.parametrize("op", [aten.sub, aten.div.Tensor, aten.matmul, aten.pow, aten.relu, aten.max.dim, aten.cat])
def test_other_ops_are_not_commutative(op):
    assert not is_commutative(op)


def test_the_axes_of_a_transpose_may_trade_places():
    assert swappable_arguments(aten.transpose.int) == ("dim0", "dim1") and not is_commutative(aten.transpose.int)
    x = torch.randn(2, 3)
    assert torch.equal(aten.transpose(x, 0, 1), aten.transpose(x, 1, 0))


def test_views_and_relayouts():
    assert is_view(aten.transpose.int) and is_view(aten.slice.Tensor) and not is_view(aten.add_.Tensor)
    assert is_relayout(aten.permute) and not is_relayout(aten.slice) and not is_relayout(aten.to.dtype)
    assert not is_view(aten.clone) and not is_relayout(aten.clone)


def test_random_and_pure_ops():
    assert is_random(aten.dropout) and is_random(aten.bernoulli) and not is_random(aten.relu)
    assert is_pure(aten.relu.default) and not is_pure(aten.relu_.default) and not is_pure(aten.dropout)
    assert not is_pure(aten._assert_tensor_metadata.default)


@pytest.mark.parametrize(
    ("op", "arguments", "random"),
    [
        (aten.dropout.default, (0.1, False), False),
        (aten.dropout.default, (0.1, True), True),
        (aten.dropout.default, (0.0, True), False),
        (aten.native_dropout.default, (0.1, None), True),
    ],
)
def test_a_call_is_random_only_if_it_draws(op, arguments, random):
    graph = Graph()
    node = graph.call_function(op, (graph.placeholder("x"), *arguments))
    assert is_random(node) is random and is_pure(node) is not random


def test_attention_is_random_only_with_dropout():
    graph = Graph()
    q = graph.placeholder("q")
    op = aten.scaled_dot_product_attention.default
    assert not is_random(graph.call_function(op, (q, q, q)))
    assert is_random(graph.call_function(op, (q, q, q), {"dropout_p": 0.1}))


def test_names_and_axes():
    assert base_name(aten.softmax.int) == base_name(aten.softmax) == "softmax"
    assert axis_arguments(aten.softmax.int) == {"dim"} and axis_arguments(aten.flatten.using_ints) == {
        "start_dim",
        "end_dim",
    }
    assert axis_arguments(aten.view.default) == frozenset()
    assert nearest_ops("aten", "sofmax")[0] == "softmax"
