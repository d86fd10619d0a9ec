"""EncoderLayer: what one layer of an encoder is made of, found by structure from its attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.fx import Node

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.ir.errors import GraphwrightError
from graphwright.ir.node import bound, is_call, op_name, value_of
from graphwright.ir.program import Program
from graphwright.ir.views import is_view

aten = torch.ops.aten

PATTERN = "q(x), k(x), v(x) -> attention -> out -> add, norm -> fc1 -> act -> fc2 -> add, norm"
PARTS = {"projections": "q(x), k(x), v(x)", "attention": "attention", "out": "out", "residual": "add, norm",
         "feed": "fc1 -> act -> fc2", "end": "add, norm"}  # fmt: skip

ATTENTIONS = (
    aten.scaled_dot_product_attention, torch.ops.graphwright.attention, torch.ops.graphwright.varlen_attention,
)  # fmt: skip
NORMS = (aten.layer_norm, aten.rms_norm)
_RESHAPES = (aten.reshape, aten._unsafe_view, aten.contiguous, aten.clone, aten.dropout, aten.to.dtype)
_LONGEST = 60


class NotLayer(GraphwrightError):
    """Why there is no encoder layer around an attention; turned into a Miss.

    Args:
        reason: One sentence.
        culprit: The node to blame.
        part: Which of `PARTS` it concerns.
    """

    def __init__(self, reason: str, culprit: Node, part: str) -> None:
        super().__init__(reason)
        self.reason, self.culprit, self.part = reason, culprit, part


@dataclass(frozen=True)
class EncoderLayer:
    """One layer: self-attention and feed-forward, each with a residual and a norm.

    Args:
        residual: What the layer gets: the first residual.
        input: What the projections read: `residual`, or its norm where `norm_first`.
        projections: Linears of query, key and value; one or two where the model has them merged or shares them.
        attention: The attention op.
        out_projection: The linear on its result.
        norms: The norms of the attention and of the feed-forward.
        middle: What the feed-forward's residual is: the value between the two halves.
        feed_in: The first linear of the feed-forward; two of them where one gates the other.
        feed_out: The last linear.
        output: The layer's result.
        norm_first: Each norm comes before its half (pre-norm), not after the residual (post-norm).
    """

    residual: Node
    input: Node
    projections: tuple[Node, ...]
    attention: Node
    out_projection: Node
    norms: tuple[Node, Node]
    middle: Node
    feed_in: tuple[Node, ...]
    feed_out: Node
    output: Node
    norm_first: bool

    def nodes(self) -> list[Node]:
        """All nodes of the layer, in graph order: those between what it gets and its result."""
        found = {self.output}
        stack = [self.output]
        while stack:
            for source in stack.pop().all_input_nodes:
                if (
                    source not in found
                    and source is not self.residual
                    and self.residual < source
                    and _is_tensor(source)
                ):
                    found.add(source)
                    stack.append(source)
        return sorted(node for node in found if node.op == "call_function" and _depends_on(node, self.residual, found))


def find_layers(program: Program) -> Iterator[EncoderLayer | tuple[Node, NotLayer]]:
    """For each attention of a program, in order, the layer around it, or why there is none."""
    for node in program.graph.nodes:
        if is_call(node, *ATTENTIONS):
            try:
                yield find_layer(node)
            except NotLayer as reason:
                yield node, reason


def find_layer(attention: Node) -> EncoderLayer:
    """The encoder layer around an attention.

    Raises:
        NotLayer: There is none; says why and where.
    """
    projections = _projections(attention)
    source = _unviewed(bound(projections[0])["input"])
    out = _single(attention, "out", lambda node: is_call(node, aten.linear))
    add, residual = _residual(out, "residual")
    norm_first = residual is not source
    if norm_first and not (is_call(source, *NORMS) and source.args[0] is residual):
        raise NotLayer(
            f"what is added to the attention is neither %{source.name} nor what it is the norm of", add, "residual"
        )
    first_norm = source if norm_first else _norm_after(add, "residual")
    middle = add if norm_first else first_norm
    second_norm = _norm_of(middle) if norm_first else None
    feed_in, feed_out = _feed_forward(second_norm or middle)
    end, other = _residual(feed_out, "end")
    if other is not middle:
        raise NotLayer(f"what is added to the feed-forward is not %{middle.name}", end, "end")
    last = second_norm or _norm_after(end, "end")
    output = end if norm_first else last
    norms = (first_norm, last)
    return EncoderLayer(
        residual, source, projections, attention, out, norms, middle, feed_in, feed_out, output, norm_first
    )


def _projections(attention: Node) -> tuple[Node, ...]:
    """The linears that query, key and value come from; all read the same value."""
    arguments = bound(attention)
    if arguments.get("is_causal"):
        raise NotLayer("the attention is causal: this is the layer of a decoder", attention, "attention")
    roles = [_projection(arguments[name], name) for name in ("query", "key", "value")]
    query = roles[0]
    for name, linear in zip(("keys", "values"), roles[1:], strict=True):
        if bound(linear)["input"] is not bound(query)["input"]:
            raise NotLayer(
                f"the {name} are made of another value than the queries: cross-attention", linear, "projections"
            )
    return tuple(dict.fromkeys(roles))


def _projection(value: Node, name: str) -> Node:
    """The one linear that a query, key or value is made of, whatever shapes, scales or rotates it in between."""
    found: dict[Node, None] = {}
    seen, stack = {value}, [value]
    while stack:
        node = stack.pop()
        if is_call(node, aten.linear):
            found[node] = None
            continue
        sources = [s for s in node.all_input_nodes if s not in seen and node.op == "call_function" and _is_value(s)]
        seen.update(sources)
        stack.extend(sources)
        if len(seen) > _LONGEST:
            break
    if len(found) != 1:
        many = f"{len(found)} linears" if found else "no linear"
        raise NotLayer(f"the {name} of the attention is made by {many}, not by one", value, "projections")
    return next(iter(found))


def _unviewed(node: Node) -> Node:
    """What a chain of views looks into: models that keep the sequence first transpose between the halves."""
    while is_view(node) and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def _single(node: Node, part: str, ends: Callable[[Node], bool]) -> Node:
    """Follow the only user of a value through reshapes, dropout and norms to the node that `ends`."""
    for _ in range(_LONGEST):
        users = _tensor_users(node)
        if len(users) != 1:
            raise NotLayer(f"%{node.name} has {len(users)} users", node, part)
        node = users[0]
        if ends(node):
            return node
        if not (is_view(node) or is_call(node, *_RESHAPES, *NORMS)):
            raise NotLayer(f"{op_name(node)} follows where a linear was expected", node, part)
    raise NotLayer("no linear follows", node, part)


def _residual(linear: Node, part: str) -> tuple[Node, Node]:
    """The addition after a linear and the other value that it adds; dropout and a factor may come before it."""
    node = linear
    for _ in range(_LONGEST):
        users = _tensor_users(node)
        if len(users) != 1:
            raise NotLayer(f"%{node.name} has {len(users)} users, one addition was expected", node, part)
        user = users[0]
        if is_call(user, aten.add.Tensor):
            other = next((value for value in user.args if value is not node), None)
            if not isinstance(other, Node) or bound(user)["alpha"] != 1:
                raise NotLayer(f"%{user.name} adds no residual", user, part)
            return user, _unviewed(other)
        if not (is_view(user) or is_call(user, *_RESHAPES, aten.mul, aten.clamp)):
            raise NotLayer(f"{op_name(user)} follows where the residual should be added", user, part)
        node = user
    raise NotLayer("no addition follows", node, part)


def _norm_after(add: Node, part: str) -> Node:
    """The norm of a sum, the only one that reads it."""
    users = _tensor_users(add)
    if len(users) != 1 or not is_call(users[0], *NORMS):
        raise NotLayer(f"%{add.name} is not normalised, nor was what went in", add, part)
    return users[0]


def _norm_of(value: Node) -> Node:
    """The norm that the feed-forward of a pre-norm layer begins with."""
    norms = [user for user in _tensor_users(value) if is_call(user, *NORMS)]
    if len(norms) != 1:
        raise NotLayer(f"%{value.name} has {len(norms)} norms, one before the feed-forward was expected", value, "feed")
    return norms[0]


def _feed_forward(value: Node) -> tuple[tuple[Node, ...], Node]:
    """The first linears of a feed-forward and the last; whatever is done between them, it ends in one linear."""
    first = [user for user in _tensor_users(value) if is_call(user, aten.linear)]
    if not first:
        raise NotLayer(f"no linear reads %{value.name}", value, "feed")
    found: dict[Node, None] = {}
    seen, stack = set(first), list(first)
    while stack and len(seen) <= _LONGEST:
        for user in _tensor_users(stack.pop()):
            if is_call(user, *ATTENTIONS):
                raise NotLayer("a second attention follows: the layer of a decoder", user, "feed")
            if is_call(user, aten.linear):
                found[user] = None
            elif user not in seen:
                seen.add(user)
                stack.append(user)
    if len(found) != 1:
        raise NotLayer(f"the feed-forward ends in {len(found)} linears, not in one", first[0], "feed")
    return tuple(first), next(iter(found))


def _tensor_users(node: Node) -> list[Node]:
    """Users other than those that read a size."""
    return [user for user in node.users if user.op == "output" or _is_tensor(user)]


def _is_tensor(node: Node) -> bool:
    return isinstance(value_of(node), (torch.Tensor, list, tuple))


def _is_value(node: Node) -> bool:
    """Whether a node is computed from tensors; weights and inputs of the program are not."""
    return node.op == "call_function" and _is_tensor(node)


def _depends_on(node: Node, source: Node, within: set[Node]) -> bool:
    stack, seen = [node], {node}
    while stack:
        for inner in stack.pop().all_input_nodes:
            if inner is source:
                return True
            if inner in within and inner not in seen:
                seen.add(inner)
                stack.append(inner)
    return False
