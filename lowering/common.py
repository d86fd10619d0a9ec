"""Calls that several targets emit alike, in terms of what a target's builder does."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.node import bound
from graphwright.lowering.support import Support

aten = torch.ops.aten

Register = Callable[..., Callable[[Any], Any]]
Transpose = Callable[[Any, Any, list[int]], Any]


def register_transposes(register: Register, transpose: Transpose) -> None:
    """Register what puts dimensions into another order.

    Args:
        register: The decorator of the target's table.
        transpose: Called with builder, value (which has a `rank`) and the order of its dimensions.
    """

    @register(aten.permute.default)
    def permute(b: Any, self: Any, dims: list[int]) -> Any:
        return transpose(b, self, [dim % len(dims) for dim in dims])

    @register(aten.transpose.int)
    def swap(b: Any, self: Any, dim0: int, dim1: int) -> Any:
        order = list(range(self.rank))
        if order:
            order[dim0], order[dim1] = order[dim1], order[dim0]
        return transpose(b, self, order)

    @register(aten.mT.default)
    def swap_last(b: Any, self: Any) -> Any:
        return swap(b, self, -2, -1)

    @register(aten.t.default, aten.numpy_T.default)
    def reverse(b: Any, self: Any) -> Any:
        return transpose(b, self, list(reversed(range(self.rank))))

    @register(aten.movedim.int)
    def move(b: Any, self: Any, source: int, destination: int) -> Any:
        order = [d for d in range(self.rank) if d != source % self.rank]
        order.insert(destination % self.rank, source % self.rank)
        return transpose(b, self, order)


def register_plumbing(register: Register) -> None:
    """Register what leaves no operator: checks, and one of the results of a call."""

    @register(
        aten._assert_async.msg, aten._assert_scalar.default, aten._assert_tensor_metadata.default,
        aten.sym_constrain_range.default, aten.sym_constrain_range_for_size.default,
    )  # fmt: skip
    def nothing(b: Any, *args: Any, **arguments: Any) -> None:
        return None

    @register(operator.getitem)
    def getitem(b: Any, arg0: list[Any], arg1: int) -> Any:
        return arg0[arg1]


def full(value: Any, dims: int) -> list[int]:
    """A number for each dimension, from one for all or one for each."""
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


def same_padding(node: Node) -> Support:
    """Whether a convolution that is told to keep sizes has no stride."""
    if bound(node)["padding"] == "valid" or all(n == 1 for n in bound(node)["stride"]):
        return Support.yes()
    return Support.no("padding 'same' with a stride")


def padding_pairs(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """Zeros in front and at the end of each dimension of a convolution; `same` has the odd one at the end."""
    if not isinstance(padding, str):
        return [(n, n) for n in full(padding, len(kernel))]
    total = [0 if padding == "valid" else d * (int(k) - 1) for k, d in zip(kernel, dilation, strict=True)]
    return [(n // 2, n - n // 2) for n in total]
