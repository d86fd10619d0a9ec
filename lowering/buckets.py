"""Buckets: the fixed sizes that a model is lowered for, and inputs brought to the sizes of one of them.

A dimension that a mask covers is padded with zeros, so that the mask says what is real: caches in front, tokens at the
end. The rows of a batch are filled up with the first row. Everything else must have the size of a bucket.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from graphwright.ir.errors import GraphwrightError, InputError
from graphwright.lowering.dims import evaluate
from graphwright.lowering.interface import DimInfo, Interface, Port
from graphwright.lowering.samples import masks

PARTS = ("batch", "sequence", "past_sequence", "encoder_sequence", "decoder_sequence", "past_decoder_sequence")
"""Dimensions that one part of a model may have and another not; one text says the sizes of all parts."""

Sizes = dict[str, int]
Tensors = dict[str, torch.Tensor]


def parse_sizes(text: str) -> dict[str, tuple[int, ...]]:
    """The sizes in a text such as `batch:1/sequence:64+128`.

    Raises:
        GraphwrightError: The text is not of that form.
    """
    found: dict[str, tuple[int, ...]] = {}
    for part in filter(None, text.split("/")):
        name, _, numbers = part.partition(":")
        if not name or not all(number.isdecimal() for number in numbers.split("+")):
            raise GraphwrightError(
                f"'{part}' does not say the sizes of a dimension", remedies=["write sizes=batch:1/sequence:64+128"]
            )
        found[name] = tuple(sorted({int(number) for number in numbers.split("+")}))
    return found


def buckets(interface: Interface, text: str) -> dict[str, Sizes]:
    """Name -> sizes of every combination that a text asks for; a dimension without sizes keeps its captured one.

    Raises:
        GraphwrightError: The text is not well formed, or names a dimension that the interface does not have.
    """
    asked = {full: sizes for name, sizes in parse_sizes(text).items() if (full := _full_name(name, interface))}
    choices = {name: asked.get(name, (info.example,)) for name, info in interface.dims.items()}
    combinations = (dict(zip(choices, sizes, strict=True)) for sizes in itertools.product(*choices.values()))
    return {_bucket_name(sizes): sizes for sizes in combinations}


def _full_name(name: str, interface: Interface) -> str:
    """A dimension's name; `sequence` also stands for `sequence_length`, and `batch` for `batch_size`.

    Empty for one that other parts of a model have, such as its encoder.
    """
    known = next((full for full in (name, f"{name}_length", f"{name}_size") if full in interface.dims), "")
    if not known and name.removesuffix("_length").removesuffix("_size") not in PARTS:
        raise GraphwrightError(
            f"there is no dimension '{name}' to give sizes to",
            why=f"the dimensions are {', '.join(interface.dims) or 'all fixed'}",
        )
    return known


def _bucket_name(sizes: Mapping[str, int]) -> str:
    return "_".join(f"{name}{size}" for name, size in sizes.items()) or "model"


@dataclass(frozen=True)
class Padding:
    """Which dimensions of an interface can be padded, and where.

    Args:
        rows: Dimensions whose entries do not depend on each other: the first axes of the inputs.
        front: Masked dimensions that are padded in front: caches. Only where positions are an input: a model that
            counts them itself would count the padding.
        end: Masked dimensions that are padded at the end.
    """

    rows: frozenset[str]
    front: frozenset[str]
    end: frozenset[str]

    @staticmethod
    def of(interface: Interface) -> Padding:
        """What the inputs of an interface allow."""
        names = frozenset(interface.dims)
        rows = {str(port.shape[0]) for port in interface.inputs if port.shape} & names
        inner = {str(size) for port in interface.inputs for size in port.shape[1:]}
        terms = [str(port.shape[1]).split(" + ") for port in masks(interface)]
        masked = {term for term in itertools.chain(*terms)} & names
        tokens = {str(port.shape[1]) for port in interface.inputs if len(port.shape) == 2 and _is_integer(port)}
        sums = {term for found in terms if len(found) > 1 for term in found}
        front = (masked & sums) - tokens
        if not any(port.name.startswith("position_ids") for port in interface.inputs):
            return Padding(frozenset(rows - inner), frozenset(), frozenset(masked - front))
        return Padding(frozenset(rows - inner), frozenset(front), frozenset(masked - front))

    def allows(self, name: str) -> bool:
        """Whether a dimension can be padded at all."""
        return name in self.rows or name in self.front or name in self.end

    def narrowed(self, interface: Interface, found: Sequence[Sizes]) -> Interface:
        """The interface with the sizes that some of the buckets can take."""
        return replace(interface, dims={name: self._narrowed(name, interface, found) for name in interface.dims})

    def _narrowed(self, name: str, interface: Interface, found: Sequence[Sizes]) -> DimInfo:
        info, sizes = interface.dims[name], sorted({bucket[name] for bucket in found})
        if self.allows(name):
            return replace(info, max=sizes[-1], example=min(info.example, sizes[-1]))
        example = info.example if info.example in sizes else sizes[0]
        return replace(info, min=sizes[0], max=sizes[-1], example=example, only=tuple(sizes))


def _is_integer(port: Port) -> bool:
    return port.dtype in ("int64", "int32")


def sizes_of(interface: Interface, inputs: Mapping[str, torch.Tensor]) -> Sizes:
    """The size of each dimension in checked inputs."""
    found: Sizes = {}
    for port in interface.inputs:
        for want, have in zip(port.shape, inputs[port.name].shape, strict=True):
            if want in interface.dims:
                found[str(want)] = int(have)
    return found


def choose(padding: Padding, found: Mapping[str, Sizes], sizes: Mapping[str, int]) -> str:
    """Name of the smallest bucket that inputs of these sizes fit into.

    Raises:
        InputError: There is none.
    """
    fitting = [
        (math.prod(bucket[name] for name in sizes), label)
        for label, bucket in found.items()
        if all(bucket[n] >= s if padding.allows(n) else bucket[n] == s for n, s in sizes.items())
    ]
    if not fitting:
        raise InputError(
            f"no bucket fits inputs with {_text(sizes)}",
            why="the buckets are " + "; ".join(_text(bucket) for bucket in found.values()),
            remedies=["lower the model with larger sizes"],
        )
    return min(fitting)[1]


def _text(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def pad(padding: Padding, port: Port, tensor: torch.Tensor, sizes: Sizes, bucket: Sizes) -> torch.Tensor:
    """An input brought to the sizes of a bucket."""
    for axis, size in enumerate(port.shape):
        front, end = _missing(padding, size, sizes, bucket)
        if not front and not end:
            continue
        if size in padding.rows:
            extra = tensor[:1].expand(end, *tensor.shape[1:])
            tensor = torch.cat([tensor, extra])
        else:
            blanks = [tensor.new_zeros([*tensor.shape[:axis], n, *tensor.shape[axis + 1 :]]) for n in (front, end)]
            tensor = torch.cat([blanks[0], tensor, blanks[1]], axis)
    return tensor


def cut(padding: Padding, port: Port, tensor: torch.Tensor, sizes: Sizes, bucket: Sizes) -> torch.Tensor:
    """An output without what belongs to padding."""
    for axis, size in enumerate(port.shape):
        front, end = _missing(padding, size, sizes, bucket)
        if front or end:
            tensor = tensor.narrow(axis, front, tensor.shape[axis] - front - end)
    return tensor


def _missing(padding: Padding, size: int | str, sizes: Sizes, bucket: Sizes) -> tuple[int, int]:
    """How many entries of an axis are padding, in front and at the end."""
    want, have = evaluate(size, bucket), evaluate(size, sizes)
    if isinstance(size, int) or want is None or have is None:
        return 0, 0
    front = sum(bucket[name] - sizes[name] for name in size.split(" + ") if name in padding.front)
    return front, want - have - front
