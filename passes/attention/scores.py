"""From the softmax backwards: which steps lead from the product of queries and keys to the scores.

Each op on the way is understood as a step of `scores = scale * (q @ k^T) + bias`; an op that is none ends the analysis
with the reason. Nothing depends on the order or the spelling of the steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.node import bound, is_call, op_name, shape_of, value_of, where
from graphwright.passes.attention.probabilities import PRODUCTS, keeps_last_dims
from graphwright.passes.attention.region import NotAttention, Scores, Step
from graphwright.passes.patterns.constants import as_number

aten = torch.ops.aten
State = Mapping[str, Any]

# A finite fill of this size or below takes no part in the softmax: exp(-1e4 - max) is 0 in every float type.
MASKED = -1e4


def find_scores(start: Node, state: State) -> Scores:
    """Walk from the input of the softmax to the product of queries and keys.

    Where two operands could lead there (a bias that is itself a product), the first that does is taken and the other
    is a bias.

    Raises:
        NotAttention: An op on the way is no step of a score computation, or an inner value is used elsewhere.
    """
    return _walk(start, state, [])


def _walk(node: Node, state: State, steps: list[Step]) -> Scores:
    _require_single_use(node, len(steps))
    if is_call(node, *PRODUCTS):
        return Scores(_node(node.args[0]), _node(node.args[1]), node, steps)
    if is_call(node, aten.baddbmm):
        return _baddbmm(node, steps)
    failure: NotAttention | None = None
    for inner, step in _alternatives(node, state):
        try:
            return _walk(inner, state, [*steps, step])
        except NotAttention as miss:
            failure = miss if failure is None or miss.depth > failure.depth else failure
    if failure is not None:
        raise failure
    reason = f"{_describe(node)} is no step from a product of queries and keys to a softmax"
    raise NotAttention(reason, node, depth=len(steps))


def _describe(node: Node) -> str:
    return f"the {node.op} '{node.target}'" if node.op in ("placeholder", "get_attr") else op_name(node)


def _require_single_use(node: Node, depth: int) -> None:
    if len(node.users) > 1:
        other = list(node.users)[-1]
        reason = f"%{node.name} has {len(node.users)} users, among them {where(other)}"
        raise NotAttention(reason, node, depth=depth)


def _node(value: Any) -> Node:
    assert isinstance(value, Node)
    return value


def _baddbmm(node: Node, steps: list[Step]) -> Scores:
    """`beta * bias + alpha * (q @ k^T)`."""
    arguments = bound(node)
    inner = []
    if arguments["beta"] != 0:
        inner.append(Step("add", node, float(arguments["beta"]), arguments["self"]))
    inner.append(Step("scale", node, float(arguments["alpha"])))
    return Scores(arguments["batch1"], arguments["batch2"], node, [*steps, *inner])


# ---- one op as a step ------------------------------------------------------------------------


def _alternatives(node: Node, state: State) -> list[tuple[Node, Step]]:
    """(inner scores, step) for each way of reading an op as a step."""
    for targets, read in _READERS:
        if is_call(node, *targets):
            return read(node, state)
    return []


def _cast(node: Node, state: State) -> list[tuple[Node, Step]]:
    return [(_node(node.args[0]), Step("same", node))] if value_of(node).dtype.is_floating_point else []


def _tanh(node: Node, state: State) -> list[tuple[Node, Step]]:
    return [(_node(node.args[0]), Step("tanh", node))]


def _sinks(node: Node, state: State) -> list[tuple[Node, Step]]:
    """`cat([scores, sinks], -1)`: one further column."""
    arguments = bound(node)
    tensors, last = arguments["tensors"], arguments["dim"] in (-1, len(shape_of(node) or ()) - 1)
    if not last or len(tensors) != 2 or (shape_of(tensors[1]) or (0,))[-1] != 1:
        return []
    return [(tensors[0], Step("sinks", node, tensor=tensors[1]))]


def _reshape(node: Node, state: State) -> list[tuple[Node, Step]]:
    source = _node(node.args[0])
    return [(source, Step("reshape", node))] if keeps_last_dims(node, source) else []


def _times(node: Node, state: State) -> list[tuple[Node, Step]]:
    a, b = node.args[0], node.args[1]
    found = []
    for inner, factor in ((a, b), (b, a)):
        number = as_number(factor, state)
        if isinstance(inner, Node) and _is_scores(inner, node):
            if number is not None:
                found.append((inner, Step("scale", node, float(number))))
            elif isinstance(factor, Node) and _per_query(factor):
                found.append((inner, Step("scale_tensor", node, tensor=factor)))
    return found


def _divide(node: Node, state: State) -> list[tuple[Node, Step]]:
    arguments = bound(node)
    number = as_number(arguments["other"], state)
    if number is None or number == 0 or arguments.get("rounding_mode"):
        return []
    return [(_node(arguments["self"]), Step("scale", node, 1.0 / float(number)))]


def _plus(node: Node, state: State) -> list[tuple[Node, Step]]:
    arguments = bound(node)
    a, b, alpha = arguments["self"], arguments["other"], float(arguments.get("alpha") or 1)
    found = []
    if isinstance(a, Node) and _is_scores(a, node) and isinstance(b, Node):
        found.append((a, Step("add", node, alpha, b)))
    if isinstance(b, Node) and _is_scores(b, node) and isinstance(a, Node) and alpha == 1:
        found.append((b, Step("add", node, 1.0, a)))
    return found


def _minus(node: Node, state: State) -> list[tuple[Node, Step]]:
    arguments = bound(node)
    a, b, alpha = arguments["self"], arguments["other"], float(arguments.get("alpha") or 1)
    if not isinstance(a, Node) or not isinstance(b, Node):
        return []
    if _is_row_constant(b):
        return [(a, Step("same", node))]
    return [(a, Step("add", node, -alpha, b))]


def _is_row_constant(node: Node) -> bool:
    """Whether a value has one entry per row; softmax is invariant to subtracting it (the usual one is the maximum)."""
    shape = shape_of(node) or ()
    return len(shape) >= 2 and shape[-1] == 1


def _masked_fill(node: Node, state: State) -> list[tuple[Node, Step]]:
    arguments = bound(node)
    return _fill(node, arguments["self"], arguments["mask"], arguments["value"], state, inverted=False)


def _where(node: Node, state: State) -> list[tuple[Node, Step]]:
    arguments = bound(node)
    mask, then, other = arguments["condition"], arguments["self"], arguments["other"]
    found = []
    if isinstance(then, Node):
        found += _fill(node, then, mask, other, state, inverted=True)
    if isinstance(other, Node):
        found += _fill(node, other, mask, then, state, inverted=False)
    return found


def _fill(node: Node, inner: Any, mask: Any, fill: Any, state: State, *, inverted: bool) -> list[tuple[Node, Step]]:
    number = as_number(fill, state)
    if number is None or not isinstance(inner, Node) or not _is_scores(inner, node) or not number <= MASKED:
        return []
    return [(inner, Step("fill", node, float(number), mask, inverted))]


def _clamp(node: Node, state: State) -> list[tuple[Node, Step]]:
    """`max(scores, finfo.min)` keeps every finite score."""
    a, b = node.args[0], node.args[1]
    for inner, bound_ in ((a, b), (b, a)):
        number = as_number(bound_, state)
        if isinstance(inner, Node) and number is not None and number <= float(torch.finfo(torch.float16).min):
            return [(inner, Step("same", node))]
    return []


def _is_scores(inner: Node, outer: Node) -> bool:
    """Whether a value has the full (query, key) extent of the scores it is to be part of."""
    a, b = shape_of(inner), shape_of(outer)
    return bool(a and b and len(a) >= 2 and str(a[-2:]) == str(b[-2:]))


def _per_query(factor: Node) -> bool:
    """Whether a factor is the same for all keys of a query, so that the query can carry it."""
    shape = shape_of(factor)
    return shape is not None and (
        len(shape) == 0 or (shape[-1] == 1 and len(shape) >= 2) or math.prod(_static(shape)) == 1
    )


def _static(shape: tuple[Any, ...]) -> list[int]:
    return [size if isinstance(size, int) else 2 for size in shape]


Reader = Callable[[Node, State], list[tuple[Node, Step]]]
_READERS: tuple[tuple[tuple[Any, ...], Reader], ...] = (
    ((aten.to.dtype,), _cast),
    ((aten.reshape,), _reshape),
    ((aten.mul,), _times),
    ((aten.div,), _divide),
    ((aten.add,), _plus),
    ((aten.sub,), _minus),
    ((aten.masked_fill,), _masked_fill),
    ((aten.where,), _where),
    ((aten.maximum, aten.clamp_min), _clamp),
    ((aten.tanh,), _tanh),
    ((aten.cat,), _sinks),
)
