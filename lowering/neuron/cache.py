"""Decoders whose cache is a buffer that each step writes into, made from decoders whose cache grows.

A captured step returns the cache it was given followed by the new keys and values. Here the cache has slots for both:
the new ones are written after the `cache_position` tokens that are there, and the output takes the memory of the
input. Wherever the step computed with the number of tokens so far, it now computes with `cache_position`; wherever
that number was a size, it is the number of slots before the new ones. Slots that hold nothing lie beyond what the
causal mask shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from graphwright.ir.infer import fake_mode_of, infer, inference_scope, same_shape
from graphwright.ir.node import bound, is_call, shape_of, value_of, where
from graphwright.ir.program import Program
from graphwright.ir.signature import Example
from graphwright.lowering.dims import expression
from graphwright.lowering.interface import Interface

aten = torch.ops.aten
POSITION = "cache_position"

_SIZES: dict[Any, tuple[str, ...]] = {
    aten.view.default: ("size",), aten.reshape.default: ("shape",), aten.expand.default: ("size",),
    aten.arange.default: ("end",), aten.full.default: ("size",), aten.zeros.default: ("size",),
    aten.ones.default: ("size",), aten.new_zeros.default: ("size",), aten.new_ones.default: ("size",),
    aten.new_full.default: ("size",), aten.empty.memory_format: ("size",), aten._unsafe_view.default: ("size",),
    aten.slice.Tensor: ("end",), aten.repeat.default: ("repeats",),
}  # fmt: skip
"""Arguments that say how large a result is."""


@dataclass(frozen=True)
class Growth:
    """A part of a cache that grows.

    Args:
        result: The output.
        joined: The concatenation of the input and what is new; the output itself, or what it is cut from.
        source: The input.
        new: What is new.
        axis: The dimension that grows.
    """

    result: Node
    joined: Node
    source: Node
    new: Node
    axis: int


def growths(program: Program) -> list[Growth]:
    """The parts of a cache that grow by what a step adds to them."""
    found = [_growth(result) for result in program.results if isinstance(result, Node)]
    return [growth for growth in found if growth is not None]


def _growth(result: Node) -> Growth | None:
    joined = result
    while is_call(joined, aten.slice) and same_shape(shape_of(joined) or (), shape_of(bound(joined)["self"]) or ()):
        joined = bound(joined)["self"]  # a window that is never full
    if not is_call(joined, aten.cat) or len(bound(joined)["tensors"]) != 2:
        return None
    source, new = bound(joined)["tensors"]
    rank = len(shape_of(joined) or ())
    growth = Growth(result, joined, source, new, bound(joined)["dim"] % max(rank, 1))
    if source.op != "placeholder" or not isinstance((shape_of(source) or (0,) * rank)[growth.axis], torch.SymInt):
        return None
    readers = [user for user in source.users if user is not joined and not is_call(user, aten.sym_size)]
    return None if readers else growth


def past_symbol(program: Program) -> str:
    """The symbol of the number of tokens in a growing cache, "" where there is none that all parts share."""
    sizes = {str((shape_of(growth.source) or ())[growth.axis]) for growth in growths(program)}
    return sizes.pop() if len(sizes) == 1 and sizes <= set(program.dim_names()) else ""


def obstacle(program: Program, slots: int) -> str:
    """Why a decoder's step cannot write into its cache, "" if it can.

    Args:
        program: A canonical program with a growing cache.
        slots: Number of slots of the cache.
    """
    symbol = past_symbol(program)
    if not symbol:
        return "the parts of its cache do not grow by one number of tokens"
    sources = {growth.source for growth in growths(program)}
    for node in program.placeholders:
        if any(str(size) == symbol for size in shape_of(node) or ()) and node not in sources:
            return f"it is not seen which output continues the input {node.target}"
    unclear = next((node for node in program.graph.nodes if not _is_understood(node, symbol, slots)), None)
    return "" if unclear is None else f"it is not clear what the number of tokens means to {where(unclear)}"


def in_place(program: Program) -> Program:
    """A copy of a decoder's step that writes into its cache; there must be no `obstacle`.

    The copy takes one argument more, `cache_position`; its inputs and outputs of the cache have one shape.
    """
    symbol = past_symbol(program)
    made = _with_position(program.clone())
    position = made.placeholders[-1]
    for node in [n for n in made.graph.nodes if _counts(n, symbol)]:
        node.update_arg(1, position)
    for growth in growths(made):
        _write(made.graph, growth, position)
    made.touch()
    return made


def _is_understood(node: Node, symbol: str, slots: int) -> bool:
    """Whether it is known what a call uses the number of tokens for: as a size, or as a number that is added."""
    if (
        node.op != "call_function"
        or not isinstance(value_of(node), (torch.Tensor, list, tuple))
        or _counts(node, symbol)
    ):
        return True
    used = {
        name
        for name, value in bound(node).items()
        for leaf in pytree.tree_leaves(value)
        if _varies(leaf, symbol, slots)
    }
    return used <= set(_SIZES.get(node.target, ()))


def _counts(node: Node, symbol: str) -> bool:
    """Whether a call adds the number of tokens to a tensor."""
    if not is_call(node, aten.add) or not isinstance(value_of(node), torch.Tensor):
        return False
    other = node.args[1]
    return isinstance(other, Node) and str(value_of(other)) == symbol and bound(node)["alpha"] == 1


def _varies(leaf: Any, symbol: str, slots: int) -> bool:
    """Whether a number depends on the number of tokens, between none and as many as there are slots.

    One that is the same at both ends, such as what a window that is larger has lost, is the same in between.
    """
    value = value_of(leaf) if isinstance(leaf, Node) else leaf
    if not isinstance(value, torch.SymInt):
        return False
    found = expression(value)
    (past,) = [one for one in found.free_symbols if str(one) == symbol] or [None]
    return past is not None and found.subs(past, 0) != found.subs(past, slots)


def _with_position(program: Program) -> Program:
    """The program with a further argument, a number of type int64."""
    signature, graph = program.signature, program.graph
    args, kwargs = signature.in_spec.children()
    leaf = pytree.tree_structure(0)
    keywords = pytree.TreeSpec(dict, [*kwargs.context, POSITION], [*kwargs.children(), leaf])
    in_spec = pytree.TreeSpec(tuple, None, [args, keywords])
    parameters = (*signature.parameters, POSITION)
    with graph.inserting_after(program.placeholders[-1]):
        node = graph.placeholder(POSITION)
    with inference_scope(fake_mode_of(graph)):
        node.meta["val"] = torch.empty((), dtype=torch.int64)
    graph._codegen = _PyTreeCodeGen(_PyTreeInfo(list(parameters), in_spec, signature.out_spec))
    example = Example(program.example.args, {**program.example.kwargs, POSITION: torch.tensor(0)})
    new = replace(signature, parameters=parameters, in_spec=in_spec)
    return replace(program, graph=graph, signature=new, example=example)


def _write(graph: Graph, growth: Growth, position: Node) -> None:
    """Put the new entries into the slots from the position on."""
    growth.source.meta["val"] = value_of(growth.joined)
    with graph.inserting_before(growth.joined):
        count = _call(graph, aten.sym_size.int, growth.new, growth.axis)
        slots = _call(graph, aten.add.Tensor, _call(graph, aten.arange.default, count), position)
        written = _call(graph, aten.index_copy.default, growth.source, growth.axis, slots, growth.new)
    for old in (growth.joined, growth.result):
        old.replace_all_uses_with(written)


def _call(graph: Graph, target: Any, *args: Any) -> Node:
    node = graph.call_function(target, args)
    node.meta["val"] = infer(fake_mode_of(graph), target, args, {})
    return node


def aliases(program: Program) -> dict[str, str]:
    """Output -> input whose memory it can take: the output is the input with entries replaced, and is read no more."""
    interface = Interface.of(program)
    inputs = {program.placeholders[port.leaf]: port.name for port in interface.inputs}
    found: dict[str, str] = {}
    for port in interface.outputs:
        result = program.results[port.leaf]
        while is_call(result, aten.index_copy, aten.index_put, aten.slice_scatter):
            result = bound(result)["self"]
        if result in inputs and result is not program.results[port.leaf] and inputs[result] not in found.values():
            found[port.name] = inputs[result]
    return found
