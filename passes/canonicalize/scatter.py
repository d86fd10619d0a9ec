"""Writing a view back into the tensor it looks into."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.node import bound, is_call, shape_of
from graphwright.ir.views import view_source

aten = torch.ops.aten


def scatter_back(view: Node, root: Node, new: Node, edit: Edit) -> Node | None:
    """`root` with the elements seen through `view` replaced by `new`; None if the view has no inverse."""
    while view is not root:
        source = view_source(view)
        scattered = _inverse(view, source, new, edit)
        if scattered is None:
            return None
        view, new = source, scattered
    return new


def _inverse(view: Node, source: Node, new: Node, edit: Edit) -> Node | None:
    """`source` with what `view` shows of it replaced by `new`."""
    arguments: dict[str, Any] = bound(view)
    if is_call(view, aten.slice):
        start, end = arguments["start"], arguments["end"]
        return edit.call(aten.slice_scatter.default, source, new, arguments["dim"], start, end, arguments["step"])
    if is_call(view, aten.select):
        return edit.call(aten.select_scatter.default, source, new, arguments["dim"], arguments["index"])
    if is_call(view, aten.transpose, aten.t):
        return edit.call(view.target, new, *view.args[1:])
    if is_call(view, aten.permute):
        dims = arguments["dims"]
        inverse = [dims.index(i) for i in range(len(dims))]
        return edit.call(aten.permute.default, new, inverse)
    if is_call(view, aten.alias, aten.detach, aten.contiguous, aten.to):
        return new
    if is_call(view, aten.diagonal):
        return edit.call(
            aten.diagonal_scatter.default, source, new, arguments["offset"], arguments["dim1"], arguments["dim2"]
        )
    if is_call(view, aten.view, aten.reshape, aten.view_as, aten.unsqueeze, aten.squeeze):
        sizes = [
            size if isinstance(size, int) else edit.call(aten.sym_size.int, source, i)
            for i, size in enumerate(shape_of(source) or ())
        ]
        return edit.call(aten.reshape.default, new, sizes)
    return None
