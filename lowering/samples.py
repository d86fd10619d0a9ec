"""Inputs to compare with: several sizes and paddings, made from the interface of a captured program."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from graphwright.ir.errors import InputError
from graphwright.lowering.dims import evaluate
from graphwright.lowering.interface import DimInfo, Interface, Port

Sizes = dict[str, int]
PADDINGS = ("right", "left", "scattered")

_SYMBOL = re.compile(r"[su]\d+")


@dataclass(frozen=True)
class Sample:
    """One call: inputs by name, and what it is called in reports."""

    label: str
    inputs: dict[str, torch.Tensor]


def samples(interface: Interface, seed: int = 0) -> list[Sample]:
    """Calls of several sizes (each dimension at 1, longer than captured, caches also empty) and paddings.

    Integers stay within the values of the captured example, floats are normally distributed. Masks are inputs whose
    name ends with `mask`, with integers or booleans of rank 2; the paddings cut into all rows but the first, or into
    the only one.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = list(_shapes(interface))
    found = [Sample(label, _inputs(interface, sizes, "none", generator)) for label, sizes in shapes]
    if masks(interface):
        sizes = _padded_sizes(interface, shapes[0][1])
        found += [Sample(f"{side} padding", _inputs(interface, sizes, side, generator)) for side in PADDINGS]
    return found


def masks(interface: Interface) -> list[Port]:
    """The inputs that say which positions are real."""
    kinds = ("int64", "int32", "bool")
    return [p for p in interface.inputs if p.name.endswith("mask") and len(p.shape) == 2 and p.dtype in kinds]


def dim_groups(interface: Interface) -> dict[str, str]:
    """Dimension -> the one it varies with: itself if it has a name.

    Unnamed symbols (`s43`, `s72`) of one position and one captured size are taken for one dimension, as programs
    that were exported without names have a symbol of its own for each input.
    """
    groups: dict[str, str] = {}
    first: dict[tuple[int, int], str] = {}
    for port in interface.inputs:
        for axis, size in enumerate(port.shape):
            if size in interface.dims:
                name = str(size)
                info = interface.dims[name]
                unnamed = _SYMBOL.fullmatch(name)
                groups.setdefault(name, first.setdefault((axis, info.example), name) if unnamed else name)
    return groups


def _shapes(interface: Interface) -> Iterator[tuple[str, Sizes]]:
    """Labelled sizes: as captured, then one dimension at a time changed."""
    groups = dim_groups(interface)
    base = {name: interface.dims[group].example for name, group in groups.items()}
    seen: list[Sizes] = []
    for label, group, size in [("as captured", "", 0), *_changes(interface, sorted({*groups.values()}, key=str))]:
        changed = {name: size if groups[name] == group else value for name, value in base.items()}
        if changed not in seen:
            seen.append(changed)
            yield label, changed


def _changes(interface: Interface, groups: list[str]) -> Iterator[tuple[str, str, int]]:
    for group in groups:
        info = interface.dims[group]
        for size in info.only or (0, 1, info.example + 1, 2 * info.example + 1):
            if info.allows(size) and (size or _may_be_empty(info)):
                yield f"{group}={size}", group, size


def _may_be_empty(info: DimInfo) -> bool:
    return info.min == 0


def _padded_sizes(interface: Interface, sizes: Sizes) -> Sizes:
    """At least three rows, so that padding cuts into some and not into others."""
    batches = {str(port.shape[0]) for port in masks(interface)}
    groups = dim_groups(interface)
    batch = {name for name in sizes if groups[name] in {groups.get(b, b) for b in batches}}
    tops = [interface.dims[name].max or 3 for name in batch]
    return {name: min([max(value, 3), *tops]) if name in batch else value for name, value in sizes.items()}


def _inputs(interface: Interface, sizes: Sizes, padding: str, generator: torch.Generator) -> dict[str, torch.Tensor]:
    padded = {port.name for port in masks(interface)}
    inputs = {}
    for port in interface.inputs:
        shape = _shape(port, sizes)
        if port.name in padded:
            inputs[port.name] = _mask(shape, padding).to(port.torch_dtype())
        else:
            inputs[port.name] = _values(port, shape, generator)
    return inputs


def _shape(port: Port, sizes: Mapping[str, int]) -> list[int]:
    shape = [evaluate(size, sizes) for size in port.shape]
    unknown = [size for size, value in zip(port.shape, shape, strict=True) if value is None]
    if unknown:
        raise InputError(
            f"no size is known for '{unknown[0]}' of input '{port.name}'", remedies=["pass inputs=[{...}, ...]"]
        )
    return [value for value in shape if value is not None]


def _values(port: Port, shape: list[int], generator: torch.Generator) -> torch.Tensor:
    dtype = port.torch_dtype()
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    low, high = port.range or (0, 1)
    return torch.randint(low, high + 1, shape, generator=generator).to(dtype)


def _mask(shape: list[int], padding: str) -> torch.Tensor:
    """Ones; all rows but the first, or the only one, lose up to half of their positions, another number in each row."""
    mask = torch.ones(shape, dtype=torch.long)
    rows, columns = shape
    for row in range(min(1, rows - 1), rows):
        holes = max(1, columns // 2 - row + 1) if columns > 1 else 0
        if padding == "right" and holes:
            mask[row, -holes:] = 0
        elif padding == "left":
            mask[row, :holes] = 0
        elif padding == "scattered":
            mask[row, row % 2 : columns - 1 : 2] = 0
    return mask
