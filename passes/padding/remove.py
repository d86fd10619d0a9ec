"""The `remove-padding` pass: an encoder computes the real tokens only."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.fx import Node

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.ir.node import bound, is_call, shape_of, value_of
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.passes.base import Pass
from graphwright.passes.canonicalize.cleanup import remove_dead
from graphwright.passes.padding.overflow import clamp_each_token, clamp_of
from graphwright.passes.padding.pack import Packer
from graphwright.passes.padding.region import RULE, Region, find_region, miss

aten = torch.ops.aten

# What an attention of one row costs beyond that of a whole batch, in operations of a matrix product. Measured: 15 us on
# one core that multiplies at 190 GFLOP/s; the two grow together.
_ROW_FLOPS = 3e6


@dataclass(frozen=True)
class RemovePadding(Pass):
    """Pack the real tokens at an encoder's entry, compute on them, and unpack the results.

    Works where each attention hides padded keys with one mask of [batch, length], and everything between treats the
    tokens one by one. Left, right and scattered padding and rows without any token are served. Where a result reads
    the first token of each row (a pooler does), it is computed even if it is padding.

    Values at real positions are those of the original. Results that still have padded positions get 0 there; this is
    a rewrite of its own (`ZeroPadding`), after which leaving the padding out is exact.

    Args:
        padded: What results have at padded positions: `zero`, or `original`, where an encoder whose results show
            padded positions stays as it is.
        least: Where a batch has a smaller fraction of padding, all tokens are computed. So they are, on a CPU, where
            the products of the tokens that could be left out cost less than attending to each row by itself. 0 always
            leaves padding out.
    """

    name = "remove-padding"
    requires = frozenset({"functional", "canonical"})

    padded: Literal["zero", "original"] = "zero"
    least: float = 0.03

    def apply(self, program: Program, rewriter: Rewriter) -> Iterable[Any]:
        """Pack the region of each mask; returns why attentions stay as they are."""
        _clamp_each_token(program, rewriter)
        region, misses = find_region(program)
        if region is None:
            return misses
        readers = [node for node in region.readers_of_padding() if self.padded == "original" or node.op != "output"]
        shows = next((node for node in _results(region) if region.rows[node] != (0, 1)), None)
        if readers or shows is not None:
            root = next(iter(region.core))
            return [*misses, miss(root, "what is at padded positions is read", shows or readers[0], "unpack")]
        _zero_results(region, rewriter)
        region, misses = find_region(program)
        assert region is not None
        _pack(region, rewriter, self.least)
        remove_dead(program, rewriter)
        return misses


def _clamp_each_token(program: Program, rewriter: Rewriter) -> None:
    """Let no clamp of a region look at all tokens at once."""
    region, _ = find_region(program)
    overflows = [node for node in region.readers_of_padding() if clamp_of(node) is not None] if region else []
    if overflows:
        clamp_each_token(overflows, rewriter)
        remove_dead(program, rewriter)


def _results(region: Region) -> list[Node]:
    """Values of the region that the program returns."""
    return [node for node in region.core if any(user.op == "output" for user in node.users)]


def _zero_results(region: Region, rewriter: Rewriter) -> None:
    """Put zeros at the padded positions of what the program returns."""
    for node in _results(region):
        with rewriter.site("ZeroPadding", (node,)) as edit:
            edit.insert_before(rewriter.program.output_node)
            zeroed = edit.ops("graphwright").zero_padding(node, region.keep)
            edit.replace(node, zeroed, users=lambda user: user.op == "output")


def _pack(region: Region, rewriter: Rewriter, least: float) -> None:
    """Compute the region on packed tokens."""
    exits = [(node, user) for node in region.core for user in node.users if user not in region.core]
    sizes = [(node, user) for node, user in exits if is_call(user, aten.sym_size)]
    replaced = [pair for pair in exits if pair not in sizes]
    with rewriter.site(RULE, [*region.core, *(user for _, user in replaced)]) as edit:
        edit.insert_before(_entry(region))
        packer = Packer(region, edit, least, _row_cost(region) if least else 0.0)
        for node in region.core:
            edit.insert_before(node)
            packer.packed(node)
            for _, user in [pair for pair in replaced if pair[0] is node]:
                edit.insert_before(user)
                edit.replace(user, packer.left(node, user))
                edit.erase(user)


def _row_cost(region: Region) -> float:
    """The number of tokens whose products cost as much as attending to one more row by itself."""
    if value_of(region.keep).device.type != "cpu":
        return 0.0
    linears = [node for node in region.core if is_call(node, aten.linear)]
    sizes = [shape_of(bound(node)["weight"]) or () for node in linears]
    per_token = sum(2 * int(size[0]) * int(size[1]) for size in sizes if all(isinstance(n, int) for n in size))
    attentions = sum(node in region.masks for node in region.core)
    return _ROW_FLOPS * attentions / per_token if per_token else math.inf


def _entry(region: Region) -> Node:
    """The first node of the region: whatever the packed values are computed from comes before it."""
    return next(iter(region.core))
