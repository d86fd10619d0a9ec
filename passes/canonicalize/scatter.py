"""Writing a view back into the tensor it looks into."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.infer import same_shape
from graphwright.ir.invariants import is_mutating
from graphwright.ir.node import bound, is_call, shape_of, value_of
from graphwright.ir.sizes import is_computable, size_node
from graphwright.ir.views import view_source

aten = torch.ops.aten

_SAME = (
    aten.alias, aten.detach, aten.contiguous, aten.to, aten.type_as, aten.lift_fresh,
    aten.dropout, aten.feature_dropout, aten.alpha_dropout, aten.feature_alpha_dropout,
)  # fmt: skip
_SELF_INVERSE = (
    aten.transpose, aten.t, aten.swapaxes, aten.swapdims, aten.mT, aten.numpy_T, aten.adjoint,
)  # fmt: skip


def scatter_back(view: Node, root: Node, new: Node, edit: Edit) -> Node | None:
    """`root` with the elements seen through `view` replaced by `new`; None if the view has no inverse."""
    while view is not root:
        if view.target is operator.getitem:
            parts, index = view_source(view), int(bound(view)["arg1"])
            source = view_source(parts)
            scattered = _inverse_part(parts, index, source, new, edit)
        else:
            source = view_source(view)
            scattered = _inverse(view, source, new, edit)
        if scattered is None:
            return None
        view, new = source, scattered
    return new


def _inverse(view: Node, source: Node, new: Node, edit: Edit) -> Node | None:
    """`source` with what `view` shows of it replaced by `new`."""
    same_dtype = value_of(view).dtype == value_of(source).dtype
    if not same_dtype:
        return None
    if is_mutating(view) or is_call(view, *_SAME) or _expands_nothing(view, source):
        return new
    if is_call(view, aten.permute):
        dims = [int(dim) % len(shape_of(source) or ()) for dim in bound(view)["dims"]]
        return edit.call(aten.permute.default, new, [dims.index(i) for i in range(len(dims))])
    if is_call(view, aten.movedim, aten.moveaxis):
        return edit.call(view.target, new, bound(view)["destination"], bound(view)["source"])
    if is_call(view, *_SELF_INVERSE):
        return edit.call(view.target, new, *view.args[1:])
    if _same_elements(view, source):
        return edit.call(aten.reshape.default, new, _sizes(source, edit))
    return _scatter(view, source, new, edit)


def _sizes(source: Node, edit: Edit) -> list[Any]:
    """The sizes of a value: from the inputs, or where they depend on data, its own."""
    known = edit.rewriter.symbols
    return [
        size_node(size, edit) if is_computable(size, known) else edit.call(aten.sym_size.int, source, i)
        for i, size in enumerate(shape_of(source) or ())
    ]


def _scatter(view: Node, source: Node, new: Node, edit: Edit) -> Node | None:
    """The inverse of a view that shows part of its source."""
    arguments: dict[str, Any] = bound(view)
    if is_call(view, aten.slice):
        start, end = arguments["start"], arguments["end"]
        return edit.call(aten.slice_scatter.default, source, new, arguments["dim"], start, end, arguments["step"])
    if is_call(view, aten.narrow) and isinstance(arguments["start"], int) and arguments["start"] >= 0:
        end = size_node(arguments["start"] + value_of(view).shape[arguments["dim"]], edit)
        return edit.call(aten.slice_scatter.default, source, new, arguments["dim"], arguments["start"], end)
    if is_call(view, aten.select):
        return edit.call(aten.select_scatter.default, source, new, arguments["dim"], arguments["index"])
    if is_call(view, aten.diagonal):
        dims = (arguments["offset"], arguments["dim1"], arguments["dim2"])
        return edit.call(aten.diagonal_scatter.default, source, new, *dims)
    return None


def _inverse_part(parts: Node, index: int, source: Node, new: Node, edit: Edit) -> Node | None:
    """`source` with one of the pieces that `parts` cuts it into replaced by `new`."""
    dim = bound(parts).get("dim", 0)
    if is_call(parts, aten.unbind):
        return edit.call(aten.select_scatter.default, source, new, dim, index)
    if not is_call(parts, aten.chunk, aten.split, aten.split_with_sizes, aten.tensor_split):
        return None
    sizes = [piece.shape[dim] for piece in value_of(parts)]
    start, end = (size_node(sum(sizes[:i]), edit) for i in (index, index + 1))
    return edit.call(aten.slice_scatter.default, source, new, dim, start, end)


def _expands_nothing(view: Node, source: Node) -> bool:
    is_expand = is_call(view, aten.expand, aten.expand_as, aten.broadcast_to)
    return is_expand and same_shape(shape_of(view) or (), shape_of(source) or ())


def _same_elements(view: Node, source: Node) -> bool:
    """Whether a view has the elements of its source, in the same order."""
    return is_call(
        view, aten.view, aten.reshape, aten.view_as, aten.reshape_as, aten.flatten, aten.unflatten, aten.ravel,
        aten.unsqueeze, aten.squeeze,
    )  # fmt: skip
