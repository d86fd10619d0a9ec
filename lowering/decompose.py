"""Decomposition of exactly those calls that a target cannot express, into calls that it can."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch._decomp import core_aten_decompositions
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from graphwright.ir.node import OpOverload, value_of
from graphwright.ir.program import Program
from graphwright.lowering.experts import counts, grouped_product

Predicate = Callable[[Node], bool]
Rules = Mapping[Any, Callable[..., Any]]

_PROVENANCE = ("nn_module_stack", "stack_trace", "from_node", "source_fn_stack")


def decompose(program: Program, supported: Predicate, rules: Rules | None = None) -> int:
    """Replace, in place, each unsupported call by supported ones.

    A call is left as it is when its decomposition has calls that are not supported either. New nodes keep the
    module path and source line of the call they stand for.

    Args:
        program: The program to change.
        supported: Whether the target has a call.
        rules: Op -> function that computes the same, in addition to torch's decompositions into core ATen.

    Returns:
        Number of calls replaced.
    """
    count = 0
    for node in list(program.graph.nodes):
        if node.op == "call_function" and isinstance(node.target, OpOverload) and not supported(node):
            body = _traced(node, rules or {})
            if body is not None and _all_supported(body, node, supported):
                _splice(node, body)
                count += 1
    if count:
        program.touch()
    return count


def _traced(node: Node, rules: Rules) -> GraphModule | None:
    """The call as a graph of core ATen ops on its node arguments, None where torch has no decomposition."""
    inputs = node.all_input_nodes
    target: Any = rules.get(node.target) or _own_rule(node.target) or node.target

    def call(*values: Any) -> Any:
        by_node = dict(zip(inputs, values, strict=True))
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: by_node[n])
        return target(*args, **kwargs)

    # Tracing tells its inputs apart by identity, and two nodes may share one fake value.
    fakes = [value.detach() if isinstance(value, FakeTensor) else value for value in map(value_of, inputs)]
    mode = next((leaf.fake_mode for leaf in pytree.tree_leaves(fakes) if isinstance(leaf, FakeTensor)), None)
    if mode is None:
        return None
    try:
        with mode, enable_python_dispatcher():
            return make_fx(call, decomposition_table={**_table(), **rules}, tracing_mode="real")(*fakes)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError):
        return None  # the report then names the original call


def _own_rule(target: Any) -> Callable[..., Any] | None:
    """A function for what torch has no decomposition for; other packages' ops are known by name."""
    if target is torch.ops.aten.histc.default:
        return lambda values, bins=100, min=0, max=0: None if min == max else counts(values, bins, min, max)
    name = getattr(getattr(target, "_schema", None), "name", "")
    return grouped_product if name in ("aten::_grouped_mm", "transformers::grouped_mm_fallback") else None


@cache
def _table() -> dict[Any, Any]:
    return dict(core_aten_decompositions())


def _all_supported(body: GraphModule, node: Node, supported: Predicate) -> bool:
    calls = [n for n in body.graph.nodes if n.op == "call_function"]
    if any(n.op == "get_attr" for n in body.graph.nodes):
        return False
    return bool(calls) and all(n.target is not node.target and supported(n) for n in calls)


def _splice(node: Node, body: GraphModule) -> None:
    """Copy `body` in front of `node` and give it the users of `node`."""
    graph = node.graph
    placeholders = [n for n in body.graph.nodes if n.op == "placeholder"]
    mapping = dict(zip(placeholders, node.all_input_nodes, strict=True))
    provenance = {key: node.meta[key] for key in _PROVENANCE if key in node.meta}
    with graph.inserting_before(node):
        for inner in body.graph.nodes:
            if inner.op == "call_function":
                copied = graph.node_copy(inner, lambda n: mapping[n])
                copied.meta = {**copied.meta, **provenance}
                mapping[inner] = copied
    result = torch.fx.node.map_arg(body.graph.output_node().args[0], lambda n: mapping[n])
    _replace(node, result)
    graph.erase_node(node)


def _replace(node: Node, result: Any) -> None:
    if isinstance(result, Node):
        node.replace_all_uses_with(result)
        return
    for user in list(node.users):
        user.replace_all_uses_with(result[user.args[1]])
        node.graph.erase_node(user)
