"""What a region is tried on: sizes of its dimensions, and kinds of inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from graphwright.passes.validation.leaves import symbols_in
from graphwright.passes.validation.region import Region

Bounds = Mapping[str, tuple[int, int | None, int]]
"""Dimension name -> smallest size, largest size, size in the example."""

_HALF = {"f16": 2.0**-10, "bf16": 2.0**-7}
_LARGEST_EXAMPLE = 64


@dataclass(frozen=True)
class Trial:
    """One way to draw the inputs.

    Args:
        label: What it is about, for messages.
        sizes: Size of each dimension.
        wide: Compute in float64, whatever the dtypes of the region.
        scale: Factor of floating-point inputs; weights are left at 1.
        masked: Masks have rows that keep nothing, and rows padded on the right.
        lowest: What additive masks have where they are masked; None for random values.
        kept: Masks keep everything.
        tolerance: Allowed difference, relative to the largest magnitude.
    """

    label: str
    sizes: Mapping[str, int]
    wide: bool = True
    scale: float = 1.0
    masked: bool = False
    lowest: float | None = None
    kept: bool = False
    tolerance: float = 1e-7


def assignments(region: Region, bounds: Bounds) -> list[dict[str, int]]:
    """Sizes to try, best first: all different, as in the example, all equal, all as small as can be."""
    names = symbols_in([record.type for record in region.records()])
    if not names:
        return [{}]
    fallback = (1, None, 4)
    limits = {name: bounds.get(name, fallback) for name in names}
    cycle = (3, 5, 4, 7, 6, 2)
    choices = [
        {name: cycle[i % len(cycle)] for i, name in enumerate(names)},
        {name: limits[name][2] for name in names},
        dict.fromkeys(names, 4),
        dict.fromkeys(names, 1),
    ]
    if any(size > _LARGEST_EXAMPLE for size in choices[1].values()):
        choices[1], choices[2] = choices[2], choices[1]
    fitting = [{name: _clip(size, limits[name]) for name, size in choice.items()} for choice in choices]
    return [dict(items) for items in dict.fromkeys(tuple(choice.items()) for choice in fitting)]


def _clip(size: int, limits: tuple[int, int | None, int]) -> int:
    low, high, _ = limits
    return min(max(size, low, 1), size if high is None else high) if size >= low else max(low, 1)


def trials(region: Region, sizes: Sequence[Mapping[str, int]], tolerance: float) -> Iterator[Trial]:
    """The trials of a region whose first side runs with each of `sizes`."""
    if folds_constants(region):
        yield Trial("the constants of the model in their own dtypes", sizes[0], wide=False, tolerance=1e-6)
        return
    first = Trial("random values", sizes[0], tolerance=tolerance)
    yield first
    for other in sizes[1:]:
        yield replace(first, label="random values at other sizes", sizes=other)
    kinds = {record.type.partition("[")[0] for record in region.records()}
    floats = kinds & {"f64", "f32", "f16", "bf16"}
    # In half precision a row that is masked throughout is uniform where scores vanish against the mask (float16 holds
    # -65504 + 8 as -65504), and not where the fused op adds in float32. Nobody reads such a row, so none is tried.
    native = replace(first, wide=False, kept=True)
    half = max((_HALF[kind] for kind in floats if kind in _HALF), default=0.0)
    # A row that keeps nothing is uniform in the model. The fused op adds the mask in half precision, which does not
    # absorb a large score, so such a row stays undefined there.
    if half:
        yield replace(first, label="large values", scale=30.0)
    else:
        yield replace(first, label="large values and masked rows", scale=30.0, masked=True, lowest=-1e30)
        if additive_masks(region):
            yield replace(first, label="rows masked with -inf", masked=True, lowest=float("-inf"))
    if half:
        yield replace(native, label="random values in half precision", tolerance=16 * half)
        yield replace(native, label="values near the range of half precision", scale=300.0, tolerance=1e30)
    elif len(floats) > 1:
        yield replace(native, label="random values in their own dtypes", tolerance=1e-5)


def folds_constants(region: Region) -> bool:
    """Whether the new value is a constant that was computed, and rounded, once: float64 would not round."""
    return any(new in region.after and region.after[new].op == "get_attr" for _, new in region.pairs)


def additive_masks(region: Region) -> set[str]:
    """Leaves that are added to what a softmax takes, judged by op and by size of the last axis."""
    softmaxes = [record for record in region.before.values() if record.operation.startswith("softmax")]
    columns = {_last_size(record.type) for record in softmaxes}
    added = (record.inputs() for record in region.before.values() if record.operation.startswith("add"))
    return {
        name
        for names in added
        for name in names
        if name in region.leaves and _last_size(region.leaves[name].type) in columns
    }


def _last_size(text: str) -> str:
    return text.rpartition("[")[2].rstrip("]").rpartition(",")[2]
