"""Inputs of other sizes and with other padding than those a program was captured with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from graphwright.ir.program import Program
from graphwright.ir.symbols import parse_size

Leaves = list[Any]


@dataclass(frozen=True)
class Case:
    """Flat inputs in placeholder order, and the padding mask among them, if there is one."""

    name: str
    leaves: Leaves
    mask: torch.Tensor | None


def cases(program: Program) -> Iterator[Case]:
    """No, right, left and scattered padding at the captured sizes; then batch 1 and other sizes."""
    captured = program.example.leaves()
    sizes = _captured_sizes(program, captured)
    yield _case("captured", program, captured, None)
    if _mask_position(program, captured) is not None:
        for padding in ("right", "left", "scattered"):
            yield _case(f"{padding} padding", program, captured, padding)
    names = program.dim_names()
    if "batch" in names.values():
        one = {symbol: 1 if names[symbol] == "batch" else size for symbol, size in sizes.items()}
        yield _case("batch 1", program, _resized(program, captured, one), "left")
    if sizes:
        other = {dim.symbol: _other(sizes[dim.symbol], dim.min, dim.max) for dim in program.dims if dim.symbol in sizes}
        yield _case("other sizes", program, _resized(program, captured, other), "right")


def _case(name: str, program: Program, leaves: Leaves, padding: str | None) -> Case:
    position = _mask_position(program, leaves)
    leaves = list(leaves)
    if position is None:
        return Case(name, leaves, None)
    if padding is not None:
        leaves[position] = padded(leaves[position], padding)
    return Case(name, leaves, leaves[position])


def _mask_position(program: Program, leaves: Leaves) -> int | None:
    for i, (node, leaf) in enumerate(zip(program.placeholders, leaves, strict=True)):
        if node.target == "attention_mask" and isinstance(leaf, torch.Tensor) and leaf.dim() == 2:
            return i
    return None


def padded(mask: torch.Tensor, padding: str) -> torch.Tensor:
    """A mask of the same shape with `right`, `left` or `scattered` padding; each row keeps a token.

    The rows differ; the first has the least padding.
    """
    batch, length = mask.shape
    result = torch.ones_like(mask)
    random = torch.Generator().manual_seed(2)
    for row in range(batch):
        count = min(1 + 2 * row, length - 1)
        if padding == "right":
            result[row, length - count :] = 0
        elif padding == "left":
            result[row, :count] = 0
        else:
            result[row, torch.randperm(length, generator=random)[: max(count, length // 3)]] = 0
            result[row, length // 2] = 1
    return result


def _captured_sizes(program: Program, leaves: Leaves) -> dict[str, int]:
    """Size of each dynamic dimension in the example."""
    sizes: dict[str, int] = {}
    for node, leaf in zip(program.placeholders, leaves, strict=True):
        value = node.meta.get("val")
        for want, have in zip(value.shape, leaf.shape, strict=True) if isinstance(value, torch.Tensor) else ():
            if isinstance(want, torch.SymInt) and want.node.expr.is_Symbol:
                sizes[str(want.node.expr)] = int(have)
    return sizes


def _other(size: int, low: int, high: int | None) -> int:
    """Another size in the range: three more, or fewer where that is too many."""
    larger = size + 3
    return larger if high is None or larger <= high else max(low, size - 2)


def _resized(program: Program, leaves: Leaves, sizes: Mapping[str, int]) -> Leaves:
    result = []
    for node, leaf in zip(program.placeholders, leaves, strict=True):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            leaf = _tile(leaf, [_size(size, sizes) for size in value.shape])
        result.append(leaf)
    return result


def _size(size: int | torch.SymInt, sizes: Mapping[str, int]) -> int:
    return int(parse_size(str(size.node.expr), sizes)) if isinstance(size, torch.SymInt) else size


def _tile(tensor: torch.Tensor, shape: list[int]) -> torch.Tensor:
    """The tensor repeated, then cut, to a shape."""
    for dim, size in enumerate(shape):
        have = tensor.shape[dim]
        if have and size > have:
            tensor = torch.cat([tensor] * -(-size // have), dim)
        tensor = tensor.narrow(dim, 0, min(size, tensor.shape[dim]))
    return tensor.contiguous()
