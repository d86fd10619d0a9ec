"""Shape ops: one spelling, and none where the shape stays."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.infer import same_shape, same_size
from graphwright.ir.node import bound, is_call, shape_of, tensor_type, value_of
from graphwright.passes.local import RuleTable

aten = torch.ops.aten
TABLE = RuleTable()
_END = 2**31


@TABLE.local_rule(aten.view.default, aten._unsafe_view, aten.reshape)
def reshape(node: Node, edit: Edit) -> Any:
    """`view` is `reshape`: memory layout is no part of a value; a reshape to the same shape is nothing."""
    source: Any = node.args[0]
    if same_shape(shape_of(node) or (), shape_of(source) or (None,)):
        return source
    if is_call(source, aten.reshape):
        return edit.call(aten.reshape.default, source.args[0], node.args[1])
    return None if is_call(node, aten.reshape) else edit.call(aten.reshape.default, source, node.args[1])


@TABLE.local_rule(aten.flatten, aten.unflatten, aten.ravel, aten.view_as, aten.reshape_as)
def reshape_spelling(node: Node, edit: Edit) -> Any:
    """`flatten`, `unflatten` and the like are `reshape`."""
    source, shape = node.args[0], shape_of(node)
    if not isinstance(source, Node) or shape is None:
        return None
    sizes = _sizes(shape, source, edit)
    return None if sizes is None else edit.call(aten.reshape.default, source, sizes)


def _sizes(shape: tuple[Any, ...], source: Node, edit: Edit) -> list[Any] | None:
    """A shape with -1 for the one symbolic size that `source` does not have; None if there are more of those."""
    sizes: list[Any] = []
    for size in shape:
        own = next((i for i, have in enumerate(shape_of(source) or ()) if same_size(size, have)), None)
        if isinstance(size, int):
            sizes.append(size)
        else:
            sizes.append(-1 if own is None else edit.call(aten.sym_size.int, source, own))
    return sizes if sizes.count(-1) <= 1 and 0 not in sizes else None


@TABLE.local_rule(aten.expand)
def expand(node: Node, edit: Edit) -> Any:
    """Expanding to the same shape is nothing."""
    source: Any = node.args[0]
    return source if same_shape(shape_of(node) or (), shape_of(source) or (None,)) else None


@TABLE.local_rule(aten.slice.Tensor)
def full_slice(node: Node, edit: Edit) -> Any:
    """A slice of everything is nothing."""
    arguments = bound(node)
    source: Any = arguments["self"]
    whole = arguments["start"] in (None, 0) and arguments["step"] == 1
    if not whole:
        return None
    end = arguments["end"]
    open_end = end is None or (isinstance(end, int) and end >= _END)
    return source if open_end or same_shape(shape_of(node) or (), shape_of(source) or (None,)) else None


@TABLE.local_rule(aten.slice.Tensor, aten.select.int)
def part_just_written(node: Node, edit: Edit) -> Any:
    """The part of a tensor that was just scattered into it is what was scattered."""
    source: Any = node.args[0]
    scatter = aten.select_scatter if is_call(node, aten.select) else aten.slice_scatter
    if not is_call(source, scatter):
        return None
    read, written = bound(node), bound(source)
    return written["src"] if all(written[name] == value for name, value in read.items() if name != "self") else None


@TABLE.local_rule(aten.cat)
def cat_without_empties(node: Node, edit: Edit) -> Any:
    """Empty operands of `cat` add nothing; a `cat` of one is that one."""
    arguments = bound(node)
    tensors = list(arguments["tensors"])
    kept = [tensor for tensor in tensors if not _is_empty(tensor, arguments["dim"])]
    same_dtype = all(value_of(tensor).dtype == value_of(node).dtype for tensor in kept)
    if not kept or not same_dtype or (len(kept) == len(tensors) and len(kept) > 1):
        return None
    return kept[0] if len(kept) == 1 else edit.call(aten.cat.default, kept, arguments["dim"])


def _is_empty(node: Node, dim: int) -> bool:
    """Whether a tensor has statically no elements along `dim` (or is the legacy empty vector)."""
    shape = shape_of(node) or ()
    if len(shape) == 1:
        return isinstance(shape[0], int) and shape[0] == 0
    size = shape[dim]
    return isinstance(size, int) and size == 0


@TABLE.local_rule(aten.t, aten.numpy_T, aten.mT, aten.swapaxes, aten.swapdims, aten.transpose.int, aten.adjoint)
def transpose(node: Node, edit: Edit) -> Any:
    """Swapping two dims is `transpose` with the smaller dim first; swapping twice is nothing."""
    source: Any = node.args[0]
    pair = _swapped(node)
    if pair is None:
        return None
    if pair[0] == pair[1]:
        return source
    if is_call(source, aten.transpose) and _swapped(source) == pair:
        return source.args[0]
    if is_call(node, aten.transpose) and tuple(node.args[1:]) == pair:
        return None
    return edit.call(aten.transpose.int, source, *pair)


def _swapped(node: Node) -> tuple[int, int] | None:
    """The two non-negative dims that a transposing op swaps."""
    kind = tensor_type(node)
    if kind is None or kind.dtype.is_complex:
        return None
    if kind.rank < 2:
        return 0, 0
    if is_call(node, aten.transpose, aten.swapaxes, aten.swapdims):
        dims: Any = node.args[1:3]
        first, second = (int(dim) % kind.rank for dim in dims)
        return min(first, second), max(first, second)
    if is_call(node, aten.mT, aten.adjoint):
        return kind.rank - 2, kind.rank - 1
    return (0, 1) if kind.rank == 2 else None


@TABLE.local_rule(aten.permute)
def permute(node: Node, edit: Edit) -> Any:
    """A permutation that swaps two dims is `transpose`; one that moves nothing is nothing."""
    source: Any = node.args[0]
    rank = len(shape_of(node) or ())
    dims = [int(dim) % rank for dim in bound(node)["dims"]]
    moved = [i for i, dim in enumerate(dims) if i != dim]
    if not moved:
        return source
    return edit.call(aten.transpose.int, source, *moved) if len(moved) == 2 else None


@TABLE.local_rule(aten.unsqueeze, aten.squeeze.dim)
def positive_dim(node: Node, edit: Edit) -> Any:
    """Negative dims of `unsqueeze` and `squeeze` become positive ones."""
    source, dim = node.args[0], node.args[1]
    if not isinstance(dim, int) or dim >= 0:
        return None
    rank = len(shape_of(source) or ()) + (1 if is_call(node, aten.unsqueeze) else 0)  # type: ignore[arg-type]
    return edit.call(node.target, source, dim % rank) if rank else source


@TABLE.local_rule(aten.sym_size.int)
def static_size(node: Node, edit: Edit) -> Any:
    """A size that is a constant is that number."""
    value = value_of(node)
    return value if isinstance(value, int) else None


@TABLE.local_rule(aten.new_ones, aten.new_zeros, aten.new_full, aten.ones_like, aten.zeros_like, aten.full_like)
def fill_without_source(node: Node, edit: Edit) -> Any:
    """`new_ones(x, ...)` of static size does not depend on x."""
    value = value_of(node)
    if not isinstance(value, torch.Tensor) or not all(isinstance(size, int) for size in value.shape):
        return None
    fill = _fill_value(node)
    if not isinstance(fill, (bool, int, float)):
        return None
    return edit.call(aten.full.default, list(value.shape), fill, dtype=value.dtype, device=value.device)


def _fill_value(node: Node) -> Any:
    if is_call(node, aten.new_ones, aten.ones_like):
        return 1
    return 0 if is_call(node, aten.new_zeros, aten.zeros_like) else bound(node)["fill_value"]
