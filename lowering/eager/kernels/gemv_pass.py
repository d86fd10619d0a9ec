"""The pass `fuse-gemv`: linears of few rows take in the norm before them and what follows, as `graphwright::gemv`.

norm(x) -> linear, linear, linear          query, key and value
norm(x) -> silu(linear) * linear           a gated feed-forward
residual + linear                          output and down projections
activation(linear)                         a plain feed-forward
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.infer import same_shape
from graphwright.ir.node import bound, is_call, shape_of, value_of
from graphwright.ir.packed import packed_linear as _packed  # noqa: F401 - defines torch.ops.graphwright.packed_linear
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.lowering.eager.kernels import gemv as _op  # noqa: F401 - defines torch.ops.graphwright.gemv
from graphwright.lowering.eager.kernels import packed_linear_gemv as _packed_op  # noqa: F401 - defines packed_gemv
from graphwright.passes.base import Pass

aten = torch.ops.aten
packed_linear = torch.ops.graphwright.packed_linear


@dataclass(frozen=True)
class FuseGemv(Pass):
    """Make one kernel of each norm, the linears that read it, and their activation, gate or residual.

    Packed linears become `graphwright::packed_gemv`, others `graphwright::gemv`.

    Args:
        rows: Largest number of rows for which a linear is rewritten, if the number is fixed.
    """

    name = "fuse-gemv"
    requires = frozenset({"functional"})

    rows: int = 4

    def apply(self, program: Program, rewriter: Rewriter) -> None:
        """Rewrite every group of linears."""
        for group in _groups(program, self.rows):
            site = _site(group)
            with rewriter.site("FuseGemv", site.nodes()) as edit:
                site.emit(edit)


@dataclass
class Site:
    """Linears on one input, and what is computed with them.

    Attributes:
        linears: The linears.
        norm: The nodes of the norm, first to last; empty without one.
        options: Keyword arguments of the op.
        tail: The nodes after a linear, first to last.
    """

    linears: list[Node]
    norm: list[Node]
    options: dict[str, Any]
    tail: list[Node]

    def nodes(self) -> list[Node]:
        """All nodes, in graph order."""
        return sorted([*self.norm, *self.linears, *self.tail])

    def emit(self, edit: Edit) -> None:
        """Create the op, put it in the place of the results, erase what it stands for."""
        source = bound(self.norm[0])["input"] if self.norm else bound(self.linears[0])["input"]
        arguments = [bound(linear) for linear in self.linears]
        edit.insert_before(self.tail[-1] if self.tail else self.linears[0])
        weights, biases = ([a[name] for a in arguments] for name in ("weight", "bias"))
        if is_call(self.linears[0], packed_linear):
            grids = ([a[name] for a in arguments] for name in ("scales", "zeros"))
            packed = (source, weights, *grids, biases, arguments[0]["bits"], arguments[0]["group_size"])
            call = edit.call(torch.ops.graphwright.packed_gemv.default, *packed, **self.options)
        else:
            call = edit.call(torch.ops.graphwright.gemv.default, source, weights, biases, **self.options)
        if self.tail or len(self.linears) == 1:
            edit.replace(self.tail[-1] if self.tail else self.linears[0], call)
        else:
            sizes = [(shape_of(weight) or ())[0] for weight in weights]
            parts = edit.call(aten.split_with_sizes.default, call, sizes, len(shape_of(call) or ()) - 1)
            for i, linear in enumerate(self.linears):
                edit.replace(linear, edit.call(operator.getitem, parts, i))
        for node in (*self.tail, *self.linears, *self.norm):
            edit.erase(node)


def _groups(program: Program, rows: int) -> list[list[Node]]:
    """Linears of few rows by input; at most three, and only such that the first can stand where all are."""
    groups: dict[Any, list[Node]] = {}
    for node in program.graph.nodes:
        if is_call(node, aten.linear, packed_linear) and _is_small(node, rows):
            arguments = bound(node)
            alike = [arguments.get(name) for name in ("bits", "group_size")]
            key = (arguments["input"], arguments["bias"] is None, arguments.get("zeros") is None, *alike)
            members = groups.setdefault(key, [])
            ready = not members or all(source < members[0] for source in node.all_input_nodes)
            if not ready or len(members) == 3:
                members = groups[(key, node)] = []
            members.append(node)
    return [part for members in groups.values() for part in _divided(members)]


def _divided(members: list[Node]) -> list[list[Node]]:
    """A group, or its single linears where one has a tail of its own."""
    if len(members) == 2 and _gate(members) is not None:
        return [members]
    return [members] if len(members) > 1 and not any(_tail(member)[0] for member in members) else [[m] for m in members]


def _is_small(node: Node, rows: int) -> bool:
    """Whether a linear reads a weight itself, and has few rows."""
    arguments = bound(node)
    weight, sizes = arguments["weight"], shape_of(arguments["input"]) or ()
    steady = isinstance(weight, Node) and weight.op == "get_attr" and len(shape_of(weight) or ()) == 2
    if is_call(node, packed_linear):
        same = steady and arguments["group_index"] is None
    else:
        same = steady and value_of(weight).dtype == value_of(node).dtype
    return bool(node.users) and same and _is_few(sizes[:-1], rows)


def _is_few(sizes: Sequence[Any], rows: int) -> bool:
    """Whether these sizes are few rows, or one row for each of a batch of any size: then the op decides."""
    fixed = [size for size in sizes if isinstance(size, int)]
    if len(fixed) < len(sizes):
        return len(sizes) - len(fixed) == 1 and all(size == 1 for size in fixed) and len(sizes) > 1
    return torch.Size(fixed).numel() <= rows


def _site(linears: list[Node]) -> Site:
    norm, options = _norm(linears)
    gate = _gate(linears) if len(linears) == 2 else None
    if gate is not None:
        activated, product = gate
        first, second = linears if _reads(activated, linears[0]) else reversed(linears)
        options |= {"activation": _activation(activated), "gated": True}
        return Site([first, second], norm, options, [activated, product])
    tail, more = _tail(linears[0]) if len(linears) == 1 else ([], {})
    return Site(linears, norm, options | more, tail)


def _reads(node: Node, source: Node) -> bool:
    return source in node.all_input_nodes


def _gate(linears: Sequence[Node]) -> tuple[Node, Node] | None:
    """(activation, product) of `activation(one) * other`."""
    for one, other in (linears, (linears[1], linears[0])):
        activated = _only_user(one)
        product = _only_user(activated) if activated is not None and _activation(activated) else None
        if (
            activated is not None
            and product is not None
            and is_call(product, aten.mul)
            and _only_user(other) is product
        ):
            return activated, product
    return None


def _tail(linear: Node) -> tuple[list[Node], dict[str, Any]]:
    """An activation, or the addition of a residual, that is all a linear is used for."""
    user = _only_user(linear)
    if user is None:
        return [], {}
    if _activation(user):
        return [user], {"activation": _activation(user)}
    if is_call(user, aten.add) and bound(user).get("alpha", 1) == 1:
        arguments = bound(user)
        other = arguments["other"] if arguments["self"] is linear else arguments["self"]
        if isinstance(other, Node) and other is not linear and _same_type(other, linear):
            return [user], {"residual": other}
    return [], {}


def _same_type(a: Node, b: Node) -> bool:
    one, other = value_of(a), value_of(b)
    is_tensor = isinstance(one, torch.Tensor) and one.dtype == other.dtype
    return is_tensor and same_shape(tuple(one.shape), tuple(other.shape))


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _activation(node: Node) -> str:
    """Name of an activation that the kernel has; empty for anything else."""
    if is_call(node, aten.gelu):
        return "gelu_tanh" if bound(node)["approximate"] == "tanh" else "gelu"
    return "silu" if is_call(node, aten.silu) else "relu" if is_call(node, aten.relu) else ""


def _norm(linears: Sequence[Node]) -> tuple[list[Node], dict[str, Any]]:
    """The norm that only these linears read, and the options that stand for it."""
    node = bound(linears[0])["input"]
    nodes: list[Node] = []
    users = set(linears)
    while set(node.users) <= users and is_call(node, aten.slice) and _is_whole(node):
        nodes.insert(0, node)
        users, node = {node}, bound(node)["self"]
    if not set(node.users) <= users:
        return [], {}
    if is_call(node, aten.mul):
        weight, normed = _weighted(node)
        if normed is not None:
            options = {"norm": "rms_cast", "norm_weight": weight, "eps": bound(normed)["eps"]}
            return ([normed, node, *nodes], options) if options["eps"] is not None else ([], {})
        return [], {}
    if is_call(node, aten.rms_norm, aten.layer_norm) and len(bound(node)["normalized_shape"]) == 1:
        arguments = bound(node)
        kind = "layer" if is_call(node, aten.layer_norm) else "rms"
        options = {"norm": kind, "norm_weight": arguments["weight"], "eps": arguments["eps"]}
        options |= {"norm_bias": arguments["bias"]} if kind == "layer" else {}
        if options["eps"] is not None and _has_dtype(options, node):
            return [node, *nodes], options
    return [], {}


def _has_dtype(options: dict[str, Any], node: Node) -> bool:
    vectors = [options.get("norm_weight"), options.get("norm_bias")]
    return all(vector is None or value_of(vector).dtype == value_of(node).dtype for vector in vectors)


def _weighted(product: Node) -> tuple[Any, Node | None]:
    """(weight, norm) of `weight * rms_norm(x)`."""
    arguments = bound(product)
    for weight, normed in ((arguments["self"], arguments["other"]), (arguments["other"], arguments["self"])):
        plain = isinstance(normed, Node) and is_call(normed, aten.rms_norm) and bound(normed)["weight"] is None
        if plain and len(normed.users) == 1 and isinstance(weight, Node) and weight.op == "get_attr":
            fits = len(shape_of(weight) or ()) == 1 and value_of(weight).dtype == value_of(product).dtype
            return (weight, normed) if fits else (None, None)
    return None, None


def _is_whole(node: Node) -> bool:
    """Whether a slice keeps everything."""
    source, result = shape_of(bound(node)["self"]), shape_of(node)
    return source is not None and result is not None and same_shape(tuple(source), tuple(result))
