"""Facts about ops: whether a call treats the tokens of a batch one by one, and where they lie in its result.

The *rows* of a value are its two axes, counted from the left, that run over sequences and over positions. An op is
row-wise if each element of its result depends on one token only. Of each op the facts say how the axes move, or that
it is not row-wise; whatever has no facts is not.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.ir.infer import same_size
from graphwright.ir.node import OpOverload, bound, is_call, shape_of, value_of

aten = torch.ops.aten
Rows = tuple[int, int]
Known = Mapping[Node, Rows]
Fact = Callable[[Node, Known], Rows | None]


def rows_of(node: Node, known: Known) -> Rows | None:
    """The rows of a call's result, from those of its operands; None if it is not row-wise."""
    if node.op != "call_function" or not any(source in known for source in node.all_input_nodes):
        return None
    packet = getattr(node.target, "overloadpacket", node.target)
    fact = _FACTS.get(packet)
    if fact is None and isinstance(node.target, OpOverload) and torch.Tag.pointwise in node.target.tags:
        fact = _pointwise
    return fact(node, known) if fact is not None else None


def _rank(node: Any) -> int:
    return len(shape_of(node) or ())


def _axis(axis: int, rank: int) -> int:
    return axis % rank if rank else axis


def _first(node: Node) -> Node:
    source = next(iter(bound(node).values()))
    assert isinstance(source, Node)
    return source


def _only_first(node: Node, known: Known) -> Rows | None:
    """The rows of the first argument, if it alone has any."""
    source = _first(node)
    others = [other for other in node.all_input_nodes if other is not source]
    return None if any(other in known for other in others) else known.get(source)


def _pointwise(node: Node, known: Known) -> Rows | None:
    """Operands are aligned at the right; those with rows have them at the same place."""
    rank = _rank(node)
    found = {
        (rows[0] + rank - _rank(source), rows[1] + rank - _rank(source))
        for source in node.all_input_nodes
        if (rows := known.get(source)) is not None
    }
    return found.pop() if len(found) == 1 and rank else None


def _linear(node: Node, known: Known) -> Rows | None:
    rows = _only_first(node, known)
    return rows if rows and max(rows) < _rank(node) - 1 else None


def _matmul(node: Node, known: Known) -> Rows | None:
    """A product with a matrix that all tokens share."""
    rows = _only_first(node, known)
    return rows if rows and _rank(node.args[1]) == 2 and max(rows) < _rank(node.args[0]) - 1 else None


def _norm(node: Node, known: Known) -> Rows | None:
    rows = _only_first(node, known)
    count = len(bound(node)["normalized_shape"])
    return rows if rows and max(rows) < _rank(node) - count else None


def _along(node: Node, known: Known) -> Rows | None:
    """Ops that work along other axes than the rows and keep every axis."""
    source = _first(node)
    rows, arguments = _only_first(node, known), bound(node)
    axis = arguments.get("dim", arguments.get("axis"))
    return rows if rows and isinstance(axis, int) and _axis(axis, _rank(source)) not in rows else None


def _reduction(node: Node, known: Known) -> Rows | None:
    source = _first(node)
    rows, arguments = _only_first(node, known), bound(node)
    axes = arguments.get("dim")
    if rows is None or axes is None or axes == []:
        return None
    gone = {_axis(axis, _rank(source)) for axis in (axes if isinstance(axes, (list, tuple)) else [axes])}
    if gone & set(rows):
        return None
    return rows if arguments.get("keepdim") else _shifted(rows, gone)


def _shifted(rows: Rows, gone: set[int]) -> Rows:
    """The rows after the axes in `gone` were removed."""
    first, second = (row - sum(axis < row for axis in gone) for row in rows)
    return first, second


def _select(node: Node, known: Known) -> Rows | None:
    axis = _axis(bound(node)["dim"], _rank(_first(node)))
    rows = _only_first(node, known)
    return _shifted(rows, {axis}) if rows and axis not in rows else None


def _embedding(node: Node, known: Known) -> Rows | None:
    arguments = bound(node)
    return None if arguments["weight"] in known else known.get(arguments["indices"])


def _transpose(node: Node, known: Known) -> Rows | None:
    source = _first(node)
    a, b = (_axis(axis, _rank(source)) for axis in node.args[1:3])  # type: ignore[arg-type]
    swap = {a: b, b: a}
    rows = known.get(source)
    return (swap.get(rows[0], rows[0]), swap.get(rows[1], rows[1])) if rows else None


def _permute(node: Node, known: Known) -> Rows | None:
    source, rows = _first(node), known.get(_first(node))
    order = [_axis(axis, _rank(source)) for axis in bound(node)["dims"]]
    return (order.index(rows[0]), order.index(rows[1])) if rows else None


def _unsqueeze(node: Node, known: Known) -> Rows | None:
    rows, axis = known.get(_first(node)), _axis(bound(node)["dim"], _rank(node))
    if rows is None:
        return None
    first, second = (row + (row >= axis) for row in rows)
    return first, second


def _squeeze(node: Node, known: Known) -> Rows | None:
    source, axes = _first(node), bound(node).get("dim")
    rows = known.get(source)
    if rows is None or axes is None:
        return None
    gone = {_axis(axis, _rank(source)) for axis in (axes if isinstance(axes, (list, tuple)) else [axes])}
    if gone & set(rows) or _rank(node) != _rank(source) - len(gone):
        return None
    return _shifted(rows, gone)


def _reshape(node: Node, known: Known) -> Rows | None:
    """Reshapes that leave both axes of the rows as they are, with as many elements before each."""
    rows = known.get(_first(node))
    if rows is None:
        return None
    old, new = shape_of(_first(node)) or (), shape_of(node) or ()
    first, second = (_kept_axis(row, old, new) for row in rows)
    return None if first is None or second is None else (first, second)


def _kept_axis(axis: int, old: Any, new: Any) -> int | None:
    before = _product(old[:axis])
    for i, size in enumerate(new):
        if same_size(size, old[axis]) and same_size(_product(new[:i]), before):
            if isinstance(size, int) and size == 1:
                return None  # several axes of size 1 cannot be told apart
            return i
    return None


def _product(sizes: Any) -> Any:
    total: Any = 1
    for size in sizes:
        total = total * size
    return total


def _expand(node: Node, known: Known) -> Rows | None:
    source = _first(node)
    rows, more = known.get(source), _rank(node) - _rank(source)
    return (rows[0] + more, rows[1] + more) if rows else None


def _tuple(node: Node, known: Known) -> Rows | None:
    return known.get(node.args[0])  # type: ignore[arg-type]


def _joined(node: Node, known: Known) -> Rows | None:
    """`cat` and `stack`: every part has the same rows, and they are joined along another axis."""
    parts, axis = node.args[0], bound(node)["dim"]
    found = {known.get(part) for part in parts}  # type: ignore[union-attr, arg-type]
    rows = found.pop() if len(found) == 1 else None
    if rows is None:
        return None
    axis = _axis(axis, _rank(node))
    if is_call(node, aten.stack):
        first, second = (row + (row >= axis) for row in rows)
        return first, second
    return rows if axis not in rows else None


def _rotary(node: Node, known: Known) -> Rows | None:
    """Cosines and sines are aligned with `x` but for the width."""
    rows = _pointwise(node, known)
    return rows if rows and max(rows) < _rank(node) - 1 and node.args[0] in known else None


_FACTS: dict[Any, Fact] = {
    **dict.fromkeys((aten.dropout, aten.to, aten.type_as, aten.alias, aten.clone, aten.contiguous), _pointwise),
    **dict.fromkeys((aten.where, aten.masked_fill, aten.add, aten.mul, aten.div, aten.sub), _pointwise),
    **dict.fromkeys((aten.softmax, aten.log_softmax, aten.slice, aten.glu, aten.narrow), _along),
    **dict.fromkeys((aten.split, aten.split_with_sizes, aten.chunk), _along),
    **dict.fromkeys((aten.mean, aten.sum, aten.var, aten.amax, aten.amin, aten.any), _reduction),
    **dict.fromkeys((aten.layer_norm, aten.rms_norm), _norm),
    **dict.fromkeys((aten.reshape, aten.view, aten._unsafe_view, aten.flatten, aten.unflatten), _reshape),
    aten.linalg_vector_norm: _reduction,
    aten.linear: _linear,
    aten.matmul: _matmul,
    aten.embedding: _embedding,
    aten.select: _select,
    aten.unbind: _select,
    aten.transpose: _transpose,
    aten.permute: _permute,
    aten.unsqueeze: _unsqueeze,
    aten.squeeze: _squeeze,
    aten.expand: _expand,
    aten.cat: _joined,
    aten.stack: _joined,
    operator.getitem: _tuple,
    torch.ops.graphwright.rotary_embedding: _rotary,
}

# Ops whose list of sizes is that of their result.
SIZED = (aten.reshape, aten.view, aten._unsafe_view, aten.expand)


def leading_rows(node: Node, batch: Any, length: Any) -> Rows | None:
    """(0, 1) for a tensor [batch, length, ...], which can be packed as it is; None for any other value."""
    shape = shape_of(node) or ()
    if len(shape) < 2 or not isinstance(value_of(node), torch.Tensor):
        return None
    return (0, 1) if same_size(shape[0], batch) and same_size(shape[1], length) else None
