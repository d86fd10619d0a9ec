"""From the softmax backwards: which steps lead from the product of queries and keys to the scores.

Each op on the way is understood as a step of `scores = scale * (q @ k^T) + bias`; an op that is none ends the analysis
with the reason. Nothing depends on the order or the spelling of the steps.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.infer import same_shape
from graphwright.ir.node import bound, is_call, op_name, shape_of, value_of, where
from graphwright.passes.attention.probabilities import PRODUCTS, keeps_last_dims
from graphwright.passes.attention.region import MASKED, NotAttention, Scores, Step
from graphwright.passes.patterns.constants import as_number

aten = torch.ops.aten
State = Mapping[str, Any]


def find_scores(start: Node, state: State) -> Scores:
    """Walk from the input of the softmax to the product of queries and keys.

    Where two operands could lead there (a bias that is itself a product), the first that does is taken and the other
    is a bias.

    Raises:
        NotAttention: An op on the way is no step of a score computation, or an inner value is used elsewhere.
    """
    return _walk(start, state, [])


def _walk(node: Node, state: State, steps: list[Step]) -> Scores:
    _require_single_use(node, steps)
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


def _require_single_use(node: Node, steps: list[Step]) -> None:
    """An inner value may serve the step outside of it, and nothing else."""
    serving = {inner for step in steps[-1:] for inner in (step.node, *step.extra)}
    others = [user for user in node.users if user not in serving] if steps else list(node.users)[1:]
    if others:
        reason = f"%{node.name} has {len(node.users)} users, among them {where(others[-1])}"
        raise NotAttention(reason, node, depth=len(steps))


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
    found = _blend(node, a, b, state) + _blend(node, b, a, state) if alpha == 1 else []
    if isinstance(a, Node) and _is_scores(a, node) and isinstance(b, Node):
        found.append((a, Step("add", node, alpha, b)))
    if isinstance(b, Node) and _is_scores(b, node) and isinstance(a, Node) and alpha == 1:
        found.append((b, Step("add", node, 1.0, a)))
    return found


def _blend(node: Node, kept: Any, rest: Any, state: State) -> list[tuple[Node, Step]]:
    """`scores * keep + fill * (1 - keep)` with a stored 0/1 tensor: the scores where it is 1, the fill elsewhere."""
    if not is_call(kept, aten.mul) or not is_call(rest, aten.mul):
        return []
    fill, complement = as_number(rest.args[1], state), rest.args[0]
    if not is_call(complement, aten.rsub) or as_number(complement.args[1], state) != 1:
        return []
    keep = complement.args[0]
    inner = kept.args[0] if kept.args[1] is keep else kept.args[1]
    usable = fill is not None and fill <= MASKED and keep in kept.args and isinstance(inner, Node)
    if not usable or not _is_zero_or_one(keep, state):
        return []
    extra = tuple(n for n in (kept, rest, complement) if len(n.users) == 1)
    return [(inner, Step("fill", node, float(fill or 0), keep, inverted=True, extra=extra))]


def _is_zero_or_one(node: Any, state: State) -> bool:
    """Whether a value is part of a stored constant of zeros and ones."""
    while is_call(node, aten.slice.Tensor, aten.reshape, aten.expand, aten.unsqueeze, aten.to.dtype):
        node = node.args[0]
    tensor = state.get(str(node.target)) if isinstance(node, Node) and node.op == "get_attr" else None
    if not isinstance(tensor, torch.Tensor) or isinstance(tensor, torch.nn.Parameter) or tensor.is_meta:
        return False
    return tensor.numel() <= 1 << 24 and bool(((tensor == 0) | (tensor == 1)).all())


def _minus(node: Node, state: State) -> list[tuple[Node, Step]]:
    arguments = bound(node)
    a, b, alpha = arguments["self"], arguments["other"], float(arguments.get("alpha") or 1)
    if not isinstance(a, Node) or not isinstance(b, Node) or not _is_scores(a, node):
        return []
    if _is_row_constant(b):
        return [(a, Step("same", node, extra=_path(a, b)))]
    return [(a, Step("add", node, -alpha, b))]


_ROW_OPS = (aten.amax, aten.max.dim, operator.getitem, aten.unsqueeze, aten.detach)


def _path(source: Node, result: Node) -> tuple[Node, ...]:
    """The nodes from `source` to `result` where that is a row maximum; nothing for any other value."""
    found: list[Node] = []
    while result is not source:
        if not is_call(result, *_ROW_OPS) or len(result.users) > 1:
            return ()
        found.append(result)
        result = _node(result.args[0])
    return tuple(found)


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
    arguments = bound(node)
    a, b = arguments["self"], arguments.get("other", arguments.get("min"))
    if arguments.get("max") is not None:
        return []
    for inner, bound_ in ((a, b), (b, a)):
        number = as_number(bound_, state)
        if isinstance(inner, Node) and number is not None and number <= float(torch.finfo(torch.float16).min):
            return [(inner, Step("same", node))]
    return []


def _is_scores(inner: Node, outer: Node) -> bool:
    """Whether a value has the full (query, key) extent of the scores it is to be part of."""
    a, b = shape_of(inner), shape_of(outer)
    return bool(a and b and len(a) >= 2 and same_shape(a[-2:], b[-2:]))


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
    ((aten.maximum, aten.max.other, aten.clamp_min, aten.clamp), _clamp),
    ((aten.tanh,), _tanh),
    ((aten.cat,), _sinks),
)
