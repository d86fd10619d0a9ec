from __future__ import annotations

import math
import operator

import pytest
import torch

from graphwright.passes.patterns import (
    Match,
    Miss,
    Rule,
    any_of,
    aten,
    const,
    find,
    maybe,
    number,
    tensor,
    through,
    view_of,
    where,
)

t = torch.ops.aten


@pytest.mark.parametrize("spelling", [((-1,), {}), ((3,), {}), ((), {"dim": -1}), ((), {"dim": 3, "dtype": None})])
@pytest.mark.parametrize("pattern", [lambda x: aten.softmax(x, -1), lambda x: aten.softmax(x, dim=3)])
def test_arguments_are_compared_after_binding(g, match, spelling, pattern):
    args, kwargs = spelling
    assert match(pattern, g.call(t.softmax.int, g.input(), *args, **kwargs))


def test_defaults_count(g, match):
    node = g.call(t.softmax.int, g.input(), -1, torch.float64)
    miss = match(lambda x: aten.softmax(x, -1), node)
    assert not miss and miss.reason == "argument dtype of softmax is torch.float64, expected None"
    assert match(lambda x: aten.softmax(x, -1, ...), node)
    assert match(lambda x, d: aten.softmax(x, -1, d), node).d is torch.float64


def test_axes_in_lists_and_alternatives_and_captures(g, match):
    x = g.input()
    node = g.call(t.mean.dim, x, [3], True)
    assert match(lambda x: aten.mean(x, -1, True), node)
    assert match(lambda x: aten.mean(x, [any_of(-2, -1)], True), node)
    assert match(lambda x, d: aten.mean(x, [d], True), node).d == 3
    new = g.call(t.unsqueeze.default, x, 4)
    assert match(lambda x: aten.unsqueeze(x, -1), new)
    swapped = g.call(t.transpose.int, x, 3, -2)
    assert match(lambda x: aten.transpose(x, 2, 3), swapped)
    assert not match(lambda x: aten.transpose(x, 1, 3), swapped)


def test_an_op_stands_for_its_overloads_and_aliases(g, match):
    x = g.input()
    assert match(lambda x: aten.softmax(x, 1), g.call(t._softmax.default, x, 1, False))
    assert not match(lambda x: aten.softmax.int(x, 1), g.call(t._softmax.default, x, 1, False))
    assert match(lambda x: aten.add(x, 2), g.call(t.add.Scalar, x, 2))
    assert match(lambda x: aten.reshape(x, [6, 20]), g.call(t.view.default, x, [6, 20]))


def test_commutative_ops_match_in_both_orders_unless_scaled(g, match):
    x, y = g.input("x"), g.input("y")
    relu = g.call(t.relu.default, y)
    pattern = lambda a, b: aten.add(a, aten.relu(b))  # noqa: E731
    assert match(pattern, g.call(t.add.Tensor, relu, x)).a.node is x
    scaled = lambda a, b: aten.add(a, aten.relu(b), alpha=2)  # noqa: E731
    assert match(scaled, g.call(t.add.Tensor, x, relu, alpha=2), allow_shared=True)
    assert not match(scaled, g.call(t.add.Tensor, relu, x, alpha=2), allow_shared=True)
    assert not match(lambda a, b: aten.sub(a, aten.relu(b)), g.call(t.sub.Tensor, relu, x), allow_shared=True)


def test_the_check_decides_between_orders(g, match):
    x, bias = g.input("x"), g.input("bias", (5,))

    def check(self, m):
        m.require(m.b.rank == 1, "the bias must have rank 1", at=m.b)

    found = match(lambda a, b: aten.add(a, b), g.call(t.add.Tensor, bias, x), check=check)
    assert (found.a.node, found.b.node) == (x, bias)


def test_a_capture_used_twice_is_one_value(g, match):
    x, y = g.input("x"), g.input("y")
    pattern = lambda a: aten.mul(a, aten.sigmoid(a))  # noqa: E731
    assert match(pattern, g.call(t.mul.Tensor, g.call(t.sigmoid.default, x), x)).a.node is x
    miss = match(pattern, g.call(t.mul.Tensor, x, g.call(t.sigmoid.default, y)))
    assert miss.reason == "a is %x before and %y here" and miss.expected == "a"


def test_an_expression_used_twice_is_one_node(g, match):
    def pattern(a):
        h = aten.relu(a)
        return aten.mul(h, aten.sigmoid(h))

    x = g.input()
    h, other = g.call(t.relu.default, x), g.call(t.relu.default, x)
    assert match(pattern, g.call(t.mul.Tensor, h, g.call(t.sigmoid.default, h)))
    assert not match(pattern, g.call(t.mul.Tensor, h, g.call(t.sigmoid.default, other)), allow_shared=True)


def test_an_inner_node_with_an_outside_user_is_a_miss_that_names_the_user(g, match):
    inner = g.call(t.relu.default, g.input())
    root, user = g.call(t.neg.default, inner), g.call(t.exp.default, inner)
    g.output(root, user)
    pattern = lambda x: aten.neg(aten.relu(x))  # noqa: E731
    miss = match(pattern, root)
    assert isinstance(miss, Miss) and miss.culprit is user and miss.score == 2
    assert miss.reason == "%relu_default is also used by %exp_default" and miss.expected == "relu(x)"
    assert match(pattern, root, allow_shared=True)


def test_an_inner_node_that_the_program_returns_is_shared(g, match):
    inner = g.call(t.relu.default, g.input())
    root = g.call(t.neg.default, inner)
    g.output(root, inner)
    assert "returned by the program" in match(lambda x: aten.neg(aten.relu(x)), root).reason

    def outputs(x):
        h = aten.relu(x)
        return aten.neg(h), h

    assert match(outputs, root).outputs == (root, inner)


def test_tags_say_which_alternative_matched(g, match):
    x, s = g.input(), g.input("s", ())
    pattern = lambda x, s: aten.relu(any_of(tag="scale", mul=aten.mul(x, s), div=aten.div(x, s)))  # noqa: E731
    assert match(pattern, g.call(t.relu.default, g.call(t.div.Tensor, x, s))).tag("scale") == "div"
    assert match(pattern, g.call(t.relu.default, g.call(t.mul.Tensor, s, x))).tag("scale") == "mul"
    miss = match(pattern, g.call(t.relu.default, g.call(t.sub.Tensor, s, x)))
    assert miss.reason == "expected mul or div, found sub.Tensor"


def test_an_optional_wrapper_and_a_capture_that_is_not_reached(g, match):
    x, m = g.input(), g.input("m")
    pattern = lambda x, mask: aten.relu(maybe(lambda y: aten.add(y, mask), aten.neg(x), tag="masked"))  # noqa: E731
    neg = g.call(t.neg.default, x)
    bare = match(pattern, g.call(t.relu.default, neg))
    assert bare.tag("masked") is False and bare.mask is None
    wrapped = match(pattern, g.call(t.relu.default, g.call(t.add.Tensor, m, neg)), allow_shared=True)
    assert wrapped.tag("masked") is True and wrapped.mask.node is m


def test_numbers(g, match):
    x = g.input()
    stored = g.weight("half", torch.tensor(0.5))
    state = {"half": torch.tensor(0.5)}
    pattern = lambda x: aten.mul(x, number(0.5))  # noqa: E731
    full = g.call(t.full.default, [], 0.5)
    assert match(pattern, g.call(t.mul.Tensor, x, 0.5000001))
    assert match(pattern, g.call(t.mul.Tensor, full, x))
    assert match(pattern, g.call(t.mul.Tensor, x, g.call(t.lift_fresh_copy.default, stored)), state)
    assert not match(pattern, g.call(t.mul.Tensor, x, stored))  # without the state nobody knows
    assert "within 1e-06, found 0.51" in match(pattern, g.call(t.mul.Tensor, x, 0.51)).reason
    found = match(lambda x, s: aten.mul(x, number(s)), g.call(t.mul.Tensor, x, stored), state)
    assert found.s == 0.5 and isinstance(found.s, float)
    assert match(lambda x: aten.mul(x, 0.5), g.call(t.mul.Tensor, x, full), allow_shared=True)


def test_a_flag_is_not_a_number(g, match):
    assert not match(lambda x: aten.mul(x, 1), g.call(t.mul.Tensor, g.input(), True))


def test_guards(g, match):
    x, w = g.input(), g.weight("w", torch.ones(5))
    mul = g.call(t.mul.Tensor, x, w)
    found = match(lambda x, w: aten.mul(tensor(x, rank=4, dtype=torch.float32), const(w)), mul)
    assert (found.x.node, found.w.node) == (x, w)
    assert "rank 3" in match(lambda x: aten.mul(tensor(x, rank=3), const()), mul).reason
    assert "float64" in match(lambda x: aten.mul(tensor(x, dtype=torch.float64), const()), mul).reason
    inputs = g.call(t.sub.Tensor, x, x)
    assert "expected a weight or literal" in match(lambda x: aten.sub(x, const()), inputs).reason
    even = lambda x, n: aten.add(x, number(where(n, lambda v: v % 2 == 0, "must be even")))  # noqa: E731
    assert match(even, g.call(t.add.Scalar, x, 4)).n == 4
    assert "must be even" in match(even, g.call(t.add.Scalar, x, 3)).reason


def test_looking_through_layout_ops(g, match):
    x = g.input()
    relu = g.call(t.relu.default, x)
    moved = g.call(t.permute.default, g.call(t.view.default, relu, [2, 3, 20]), [1, 0, 2])
    found = match(lambda x: aten.exp(view_of(aten.relu(x))), g.call(t.exp.default, moved))
    assert found.x.node is x and len(found.nodes) == 4
    assert match(lambda x: aten.exp(through(aten.relu(x), aten.view, aten.permute)), found.root)
    assert not match(lambda x: aten.exp(through(aten.relu(x), aten.view)), found.root)


def test_lists_of_expressions_and_items_of_results(g, match):
    x = g.input()
    halves = g.call(t.split.Tensor, x, 2, 1)
    first = g.call(operator.getitem, halves, 0)
    cat = g.call(t.cat.default, [g.call(t.neg.default, first), x], -3)
    pattern = lambda x, y: aten.cat([aten.neg(aten.split(x, ..., 1)[0]), y], dim=1)  # noqa: E731
    assert not match(pattern, g.call(t.cat.default, [x], 1))
    assert match(pattern, cat).y.node is x


def test_several_outputs_are_found_from_what_they_share(g, match):
    x, a, b, c = g.input(), *(g.weight(n, torch.ones(7, 5)) for n in "abc")
    other = g.call(t.linear.default, g.input("z"), c)
    first, second = g.call(t.linear.default, x, a), g.call(t.relu.default, g.call(t.linear.default, x, b))
    g.output(first, second, other)
    found = match(lambda x, w, v: (aten.linear(x, w), aten.relu(aten.linear(x, v))), first)
    assert found.outputs == (first, second) and found.v.node is b
    alone = match(lambda x, w, v: (aten.linear(x, w), aten.linear(x, v)), other)
    assert alone.reason == "no other node matches linear(x, v)"


def test_outputs_that_cannot_be_replaced_at_one_place_are_a_miss(g, match):
    x, a = g.input(), g.weight("a", torch.ones(5, 5))
    first = g.call(t.linear.default, x, a)
    late = g.call(t.slice.Tensor, g.call(t.view.default, first, [24, 5]), 0, 0, 5)
    second = g.call(t.linear.default, x, late)
    g.output(first, second)
    miss = match(lambda x, w, v: (aten.linear(x, w), aten.linear(x, v)), first)
    assert "comes after" in miss.reason and miss.culprit is late


def test_check_turns_into_a_miss_with_its_culprit(g, match):
    x = g.input(shape=(3,))

    def check(self, m):
        m.require(m.x.type.rank > 1, "x must be a matrix", at=m.x)

    miss = match(lambda x: aten.relu(aten.neg(x)), g.call(t.relu.default, g.call(t.neg.default, x)), check=check)
    assert (miss.reason, miss.culprit, miss.expected, miss.score) == ("x must be a matrix", x, "x", 2)


def test_the_nearest_miss_is_kept(g, match):
    x = g.input()
    deep = g.call(t.mul.Tensor, g.call(t.add.Tensor, g.call(t.sin.default, x), 1.0), x)
    pattern = lambda x: aten.mul(x, aten.add(aten.cos(x), 1.0))  # noqa: E731
    miss = match(pattern, deep)
    assert miss.reason == "expected cos, found sin" and miss.score == 2
    assert miss.caret() == "mul(x, add(cos(x), 1))\n           ^^^^^^"


def test_a_no_op_in_the_way_gives_a_hint(g, match):
    x = g.input()
    for node in (g.call(t.dropout.default, x, 0.1, False), g.call(t.to.dtype, x, torch.float32)):
        miss = match(lambda x: aten.exp(aten.relu(x)), g.call(t.exp.default, node))
        assert "canonicalize" in miss.hint and miss.culprit is node
    active = g.call(t.dropout.default, x, 0.1, True)
    assert match(lambda x: aten.exp(aten.relu(x)), g.call(t.exp.default, active)).hint is None
    in_place = g.call(t.relu_.default, g.call(t.neg.default, x))
    assert "in-place" in match(lambda x: aten.exp(aten.relu(x)), g.call(t.exp.default, in_place)).hint


def test_giving_up_is_a_miss(g, match):
    node = g.input()
    for _ in range(12):
        node = g.call(t.add.Tensor, node, g.call(t.neg.default, node))

    def pattern(x, y):
        left = x
        for _ in range(12):
            left = aten.add(left, ...)
        return aten.add(left, y)

    miss = match(pattern, node, budget=9)
    assert miss.reason.startswith("gave up after 9 steps") and "budget" in miss.hint


def test_find_looks_only_at_possible_roots_in_graph_order(g, one_off):
    x = g.input()
    relus = [g.call(t.relu.default, x) for _ in range(3)]
    g.call(t.neg.default, relus[0])
    found = find(one_off(lambda x: aten.relu(x)), g.graph)
    assert [one.root for one in found] == relus and all(isinstance(one, Match) for one in found)


def test_python_operators_stand_for_aten_calls(g, match):
    x, y = g.input(), g.input("y", (5, 4))
    gelu = lambda x: x * 0.5 * (1 + aten.erf(x / math.sqrt(2)))  # noqa: E731
    half = g.call(t.mul.Tensor, x, 0.5)
    erf = g.call(t.add.Tensor, g.call(t.erf.default, g.call(t.div.Tensor, x, math.sqrt(2))), 1)
    assert match(gelu, g.call(t.mul.Tensor, half, erf))
    assert match(lambda x, y: -(x @ y), g.call(t.neg.default, g.call(t.matmul.default, x, y)))
    assert match(lambda x: 1.0 - x**2, g.call(t.rsub.Scalar, g.call(t.pow.Tensor_Scalar, x, 2), 1.0))


def test_captures_offer_types_and_literals(g, match):
    found = match(lambda x, n: aten.add(x, n), g.call(t.add.Tensor, g.input(dtype=torch.float16), 3))
    assert found.x.rank == 4 and found.x.dtype is torch.float16 and found.x.shape == (2, 3, 4, 5)
    assert found.n == 3 and found.number(found.n) == 3 and found.captures().keys() == {"x", "n"}
    with pytest.raises(AttributeError, match="no capture 'z'"):
        _ = found.z


def test_a_symbolic_condition_must_hold_for_every_size(one_off):
    def check(self, m):
        m.require(m.x.shape[0] == m.x.shape[0], "always")
        m.require(m.x.shape[0] == m.y.shape[0], "x and y must have as many rows", at=m.y)

    class Sum(torch.nn.Module):
        def forward(self, x, y):
            return (x.sum(0) + y.sum(0)).relu()

    rows = {"x": {0: torch.export.Dim("a")}, "y": {0: torch.export.Dim("b")}}
    exported = torch.export.export(Sum(), (torch.randn(3, 2), torch.randn(4, 2)), dynamic_shapes=rows)
    graph = exported.module(check_guards=False).graph
    pattern = lambda x, y: aten.add(aten.sum(x, [0]), aten.sum(y, [0]))  # noqa: E731
    (miss,) = find(one_off(pattern, check=check), graph)
    assert (miss.reason, miss.culprit.name) == ("x and y must have as many rows", "y")
    assert find(one_off(pattern), graph)[0]


def test_a_rule_that_asks_for_the_type_of_no_tensor_misses(g):
    class Typed(Rule):
        def pattern(self, x):
            return aten.relu(x)

        def check(self, m):
            m.require(m.x.rank == 4, "rank")

    x = g.graph.placeholder("x")
    node = g.graph.call_function(t.relu.default, (x,))
    (miss,) = find(Typed, g.graph)
    assert miss.root is node and miss.reason == "%x is not a tensor"
