"""Between Programs and torch ExportedPrograms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from graphwright.ir.guards import guards_of
from graphwright.ir.program import Dim, Program, State
from graphwright.ir.signature import Example, Signature

_UNBOUNDED = 2**31
_VMAP = "torch._functorch.predispatch"


def from_exported(exported: ExportedProgram, *, example: Example, names: Mapping[str, str], name: str) -> Program:
    """Unlift `exported` into a Program that shares its weights.

    Args:
        exported: The torch program; it stays as it is.
        example: The call it was exported with.
        names: Symbol -> dimension name; symbols without a name are called by their symbol.
        name: Name of the program, usually the model's class.
    """
    exported = _without_vmap(exported)
    module = exported.module(check_guards=False)
    in_spec, out_spec = exported.call_spec.in_spec, exported.call_spec.out_spec
    if in_spec is None or out_spec is None:
        raise AssertionError("torch.export always records both call specs")
    graph = module.graph
    state = _state(module, graph)
    _drop_guard_calls(graph, state)
    return Program(
        graph=graph,
        state=state,
        signature=Signature(_parameters(graph, example), in_spec, out_spec),
        example=example,
        dims=_dims(graph, exported, names),
        guards=guards_of(graph),
        name=name,
        training=False,
    )


def _without_vmap(exported: ExportedProgram) -> ExportedProgram:
    """Replace each traced `vmap` by what it computes.

    torch.export records the entering and leaving of a `vmap` as calls, with values between that cannot be used
    outside; tracing the graph once more leaves ATen ops only. No op is decomposed.
    """
    mapped = any(getattr(node.target, "__module__", None) == _VMAP for node in exported.graph.nodes)
    return exported.run_decompositions({}) if mapped else exported


def _parameters(graph: Graph, example: Example) -> tuple[str, ...]:
    """Argument names in call order, as torch records them for the unlifted module."""
    recorded = getattr(getattr(graph._codegen, "pytree_info", None), "orig_args", None) or ()
    names = [str(name) for name in recorded if name != "self"]
    positional = names[: len(example.args)]
    positional += [f"arg{i}" for i in range(len(positional), len(example.args))]
    return (*positional, *example.kwargs)


def _state(module: torch.nn.Module, graph: Graph) -> State:
    state: State = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            value: Any = module
            for part in str(node.target).split("."):
                value = getattr(value, part)
            state[str(node.target)] = value
    return state


def _drop_guard_calls(graph: Graph, state: State) -> None:
    """Remove `call_module` guards that torch adds; `Program.run` checks its inputs itself."""
    for node in list(graph.nodes):
        if node.op == "call_module" and "guards" in str(node.target):
            graph.erase_node(node)


def _dims(graph: Graph, exported: ExportedProgram, names: Mapping[str, str]) -> tuple[Dim, ...]:
    """The symbols of the inputs, in order of first use, with their value ranges."""
    ranges = {str(symbol): bounds for symbol, bounds in exported.range_constraints.items()}
    dims: dict[str, Dim] = {}
    for node in graph.nodes:
        value = node.meta.get("val")
        if node.op != "placeholder" or not isinstance(value, torch.Tensor):
            continue
        for size in value.shape:
            if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol:
                symbol = str(size.node.expr)
                bounds = ranges.get(symbol)
                low, high = (0, None) if bounds is None else (_low(bounds.lower), _high(bounds.upper))
                dims.setdefault(symbol, Dim(names.get(symbol, symbol), symbol, low, high))
    return tuple(dims.values())


def _low(bound: Any) -> int:
    """Torch assumes symbols of at least 2 while tracing; the graph itself is also valid for 1."""
    return 1 if int(bound) <= 2 else int(bound)


def _high(bound: Any) -> int | None:
    return int(bound) if bound.is_Integer and int(bound) < _UNBOUNDED else None


def to_exported(program: Program, *, strict: bool = False) -> ExportedProgram:
    """Re-export the program; dynamic dimensions stay dynamic (torch names them anew)."""
    symbols = {dim.symbol for dim in program.dims}

    def dynamic(node: Node, leaf: Any) -> Any:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            return None
        return {
            i: torch.export.Dim.AUTO
            for i, size in enumerate(value.shape)
            if isinstance(size, torch.SymInt) and (not symbols or size.node.expr.free_symbols)
        }

    leaves = program.example.leaves()
    specs = [dynamic(node, leaf) for node, leaf in zip(program.placeholders, leaves, strict=True)]
    args_shapes, kwargs_shapes = pytree.tree_unflatten(specs, _plain_spec(program.signature.in_spec))
    shapes: Any = {**dict(zip(program.signature.parameters, args_shapes, strict=False)), **kwargs_shapes}
    if program.example.args and not program.example.kwargs:
        shapes = tuple(args_shapes)
    return torch.export.export(
        program.module, program.example.args, program.example.kwargs, dynamic_shapes=shapes, strict=strict
    )


def _plain_spec(spec: pytree.TreeSpec) -> pytree.TreeSpec:
    """The layout with every container class turned into the list of its children, as torch.export wants it."""
    if spec.is_leaf():
        return spec
    children = [_plain_spec(child) for child in spec.children()]
    if spec.type in (dict, tuple, list):
        return pytree.TreeSpec(spec.type, spec.context, children)
    return pytree.TreeSpec(list, None, children)
