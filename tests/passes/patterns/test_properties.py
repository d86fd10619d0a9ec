"""Random patterns and graphs: what is embedded is found however it is spelt, and the matcher agrees with brute force.

A pattern is described by a plain tree: ("x",) is a capture, a number is a literal, ("add", left, right) is a call.
The tree is turned into an expression for the matcher, into nodes for the graph, and read directly by the reference.
"""

from __future__ import annotations

import random
from itertools import permutations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx import Node

from graphwright.passes.patterns import Match, Matcher, Rule, any_of, aten

t = torch.ops.aten
UNARY = {"relu": t.relu.default, "neg": t.neg.default, "exp": t.exp.default}
BINARY = {"add": t.add.Tensor, "mul": t.mul.Tensor, "sub": t.sub.Tensor, "maximum": t.maximum.default}
AXIS = {"softmax": t.softmax.int}
OTHER = {**dict.fromkeys(UNARY, "sin"), **dict.fromkeys(BINARY, "div"), "softmax": "cumsum"}
OPS = {**UNARY, **BINARY, **AXIS, "sin": t.sin.default, "div": t.div.Tensor, "cumsum": t.cumsum.default}
SWAPS = ("add", "mul", "maximum")
RANK = 3

captures = st.sampled_from([("a",), ("b",), ("c",)])
numbers = st.sampled_from([2, 0.5])
trees = st.recursive(
    captures,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(sorted(UNARY)), inner),
        st.tuples(st.sampled_from(["add", "mul", "sub"]), inner, st.one_of(inner, numbers)),
        st.tuples(st.just("maximum"), inner, inner),
        st.tuples(st.just("softmax"), inner, st.integers(-RANK, RANK - 1)),
    ),
    max_leaves=5,
).filter(lambda tree: len(tree) > 1)

alternatives = st.recursive(
    trees,
    lambda inner: st.one_of(
        st.tuples(st.just("any"), inner, inner),
        st.tuples(st.just("any"), inner, captures),
        st.tuples(st.sampled_from(["add", "sub", "maximum"]), inner, inner),
    ),
    max_leaves=4,
).filter(lambda tree: tree[0] != "any")


def rule_of(tree) -> type[Rule]:
    names = sorted({part[0] for part in parts(tree) if isinstance(part, tuple) and len(part) == 1})
    scope = {"build": lambda values: expression(tree, values)}
    exec(f"def pattern(self, {', '.join(names)}): return build(dict({', '.join(f'{n}={n}' for n in names)}))", scope)
    return type("Random", (Rule,), {"pattern": scope["pattern"]})


def parts(tree):
    yield tree
    if isinstance(tree, tuple):
        for part in tree[1:]:
            yield from parts(part)


def expression(tree, values):
    if not isinstance(tree, tuple):
        return tree
    if len(tree) == 1:
        return values[tree[0]]
    op = any_of if tree[0] == "any" else getattr(aten, tree[0])
    return op(*(expression(part, values) for part in tree[1:]))


def embed(g, tree, rng, inputs):
    """The tree as nodes, its arguments spelt at random."""
    if not isinstance(tree, tuple):
        return tree
    if len(tree) == 1:
        return inputs(tree[0])
    if tree[0] == "any":
        return embed(g, rng.choice(tree[1:]), rng, inputs)
    args = [embed(g, part, rng, inputs) for part in tree[1:]]
    if tree[0] in AXIS or tree[0] == "cumsum":
        axis = args[1] % RANK - rng.choice([0, RANK])
        return g.call(OPS[tree[0]], args[0], axis) if rng.random() < 0.5 else g.call(OPS[tree[0]], args[0], dim=axis)
    if tree[0] in SWAPS and isinstance(args[1], Node) and rng.random() < 0.5:
        args.reverse()
    if tree[0] in BINARY and rng.random() < 0.3:
        return g.call(OPS[tree[0]], args[0], other=args[1])
    return g.call(OPS[tree[0]], *args)


def embedded(make_graph, tree, seed, wrong_input=None):
    g, rng, made = make_graph(), random.Random(seed), {}
    uses = iter(range(1000))

    def inputs(name):
        name = "wrong" if next(uses) == wrong_input else name
        if name not in made:
            made[name] = g.input(name, shape=(2,) * RANK)
        return made[name]

    root = embed(g, tree, rng, inputs)
    g.output(root)
    return g, root, made


@settings(deadline=None)
@given(tree=trees, seed=st.integers(0, 99))
def test_an_embedded_pattern_is_found_however_it_is_spelt(make_graph, tree, seed):
    _, root, inputs = embedded(make_graph, tree, seed)
    found = Matcher(rule_of(tree)).match(root)
    assert isinstance(found, Match), found
    assert {value.name for value in found.captures().values()} == {node.name for node in inputs.values()}


@settings(deadline=None)
@given(tree=trees, seed=st.integers(0, 99), data=st.data())
def test_one_wrong_op_is_always_a_miss(make_graph, tree, seed, data):
    """The graph is a tree with as many calls as the pattern, so one call of another op leaves one without partner."""
    victim = data.draw(st.sampled_from([part for part in parts(tree) if isinstance(part, tuple) and len(part) > 1]))
    broken = substitute(tree, victim, (OTHER[victim[0]], *victim[1:]))
    _, root, _ = embedded(make_graph, broken, seed)
    assert not Matcher(rule_of(tree)).match(root)


def substitute(tree, old, new):
    if tree is old:
        return new
    return tuple(substitute(part, old, new) for part in tree) if isinstance(tree, tuple) else tree


@settings(deadline=None)
@given(tree=trees, seed=st.integers(0, 99), data=st.data())
def test_an_outside_user_of_an_inner_node_is_always_a_miss(make_graph, tree, seed, data):
    g, root, _ = embedded(make_graph, tree, seed)
    inner = [node for node in g.graph.nodes if node.op == "call_function" and node is not root]
    if inner:
        node = data.draw(st.sampled_from(inner))
        with g.graph.inserting_after(root):
            user = g.call(t.sin.default, node)
        miss = Matcher(rule_of(tree)).match(root)
        assert not miss and miss.culprit is user


@settings(deadline=None)
@given(tree=alternatives, other=trees, seed=st.integers(0, 99), wrong=st.integers(0, 4))
def test_the_matcher_agrees_with_brute_force(make_graph, tree, other, seed, wrong):
    """On the pattern's own graph, with one input swapped, and on an unrelated graph; every node as the root."""
    for graph_tree, wrong_input in ((tree, None), (tree, wrong), (other, None)):
        g, _, _ = embedded(make_graph, graph_tree, seed, wrong_input)
        for node in g.graph.nodes:
            solutions = [env for env in brute_force(tree, node, {}) if is_private(env, node)]
            found = Matcher(rule_of(tree)).match(node)
            assert bool(found) == bool(solutions), (found, solutions)
            if found:
                reached = {name: value for name, value in found.captures().items() if value is not None}
                assert reached in [captured(env) for env in solutions]


def brute_force(tree, value, env):
    """All environments in which the tree matches the value, by trying every order of every call's arguments."""
    if not isinstance(tree, tuple):
        return [env] if not isinstance(value, Node) and value == tree else []
    if len(tree) == 1:
        known = env.get(tree[0], value)
        equal = known is value if isinstance(value, Node) else not isinstance(known, Node) and known == value
        return [{**env, tree[0]: known}] if equal else []
    if tree[0] == "any":
        return [found for part in tree[1:] for found in brute_force(part, value, env)]
    if not isinstance(value, Node) or value.op != "call_function" or value.target is not OPS[tree[0]]:
        return []
    args = [*value.args, *value.kwargs.values()]
    wanted = list(tree[1:])
    if tree[0] in AXIS:
        args[1], wanted[1] = args[1] % RANK, wanted[1] % RANK
    results = []
    for order in permutations(args) if tree[0] in SWAPS else [args]:
        envs = [{**env, "nodes": (*env.get("nodes", ()), value)}]
        for part, argument in zip(wanted, order, strict=True):
            envs = [new for old in envs for new in brute_force(part, argument, old)]
        results += envs
    return results


def is_private(env, root):
    return all(user in env["nodes"] for node in env["nodes"] if node is not root for user in node.users)


def captured(env):
    return {name: value for name, value in env.items() if name != "nodes"}
