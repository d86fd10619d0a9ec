"""Example inputs for an ONNX graph: made from the types that it declares."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import to_torch_dtype

from graphwright.frontends.axes import Axis, Leaves
from graphwright.ir.errors import CaptureError

_LENGTHS = (7, 5, 9, 11, 6, 13, 8, 10)
_USUAL = {"sample": 4000, "audio": 4000, "frames": 48, "height": 64, "width": 96}
_ANONYMOUS = re.compile(r"(s|u|unk__|dynamic_axes_)\d+")
"""Names that tools give to dimensions; two of them may have to be equal, which the file does not say."""

_SAFE = re.compile(r"\W+")


def nested(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """Values by dotted name as mappings in mappings: `past.0.key` is `result["past"]["0"]["key"]`."""
    result: dict[str, Any] = {}
    for name, value in zip(names, values, strict=True):
        *path, leaf = name.split(".")
        inner = result
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise CaptureError(f"the names '{name}' and '{part}' exclude each other")
        inner[leaf] = value
    return result


class Sizes:
    """Sizes for the named dimensions of a graph; names that are sums of others get the sum."""

    def __init__(self, given: Mapping[str, int]) -> None:
        self.chosen: dict[str, int] = dict(given)

    def __getitem__(self, name: str) -> int:
        if name not in self.chosen:
            self.chosen[name] = self._choose(name)
        return self.chosen[name]

    def _choose(self, name: str) -> int:
        parts = summands(name)
        if len(parts) > 1:
            return sum(int(part) if part.isdigit() else self[part] for part in parts)
        if "batch" in name:
            return 2
        known = next((size for word, size in _USUAL.items() if word in name), None)
        if known is not None:
            return known
        taken = set(self.chosen.values())
        return next((n for n in _LENGTHS if n not in taken), 3 + len(taken))


def summands(name: str) -> list[str]:
    """The parts of a name such as `past_sequence_length + sequence_length`."""
    return [part.strip() for part in name.split("+")]


def example(inputs: Sequence[ir.Value], sizes: Mapping[str, int]) -> tuple[list[torch.Tensor], Leaves]:
    """A tensor for each input, and the names of its dynamic dimensions.

    Args:
        inputs: Inputs of the graph.
        sizes: Sizes of named dimensions that are not free to choose.

    Raises:
        CaptureError: An input is no tensor, or its number of dimensions is not declared.
    """
    chosen = Sizes(sizes)
    tensors, axes = [], []
    for value in inputs:
        if value.shape is None or value.dtype is None:
            raise CaptureError(
                f"input '{value.name}' declares no type or no shape",
                remedies=["pass inputs= with a tensor for each input"],
            )
        names = [_dimension(value, i) for i in range(len(value.shape))]
        shape = [_size(name, i, chosen) for i, name in enumerate(names)]
        tensors.append(_tensor(value, shape))
        axes.append(axes_of(names))
    return tensors, axes


def _size(name: int | str, position: int, chosen: Sizes) -> int:
    if isinstance(name, int):
        return name
    if _ANONYMOUS.fullmatch(name) and name not in chosen.chosen:
        chosen.chosen[name] = _LENGTHS[position - 1] if position else 2
    return chosen[name]


def _dimension(value: ir.Value, i: int) -> int | str:
    assert value.shape is not None
    size = value.shape[i]
    if isinstance(size, int):
        return size
    return size.value if isinstance(size.value, str) and size.value else f"{value.name}_dim_{i}"


def axes_of(names: Sequence[int | str]) -> dict[int, Axis]:
    """The dynamic dimensions of one input; spaces and signs are not part of a name."""
    found = {}
    for i, name in enumerate(names):
        if isinstance(name, str):
            clean = "+".join(_SAFE.sub("_", part).strip("_") for part in summands(name))
            found[i] = Axis(clean, shared=True)
    return found


def _tensor(value: ir.Value, shape: Sequence[int]) -> torch.Tensor:
    assert value.dtype is not None
    dtype = to_torch_dtype(value.dtype)
    name = value.name or ""
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)
    if dtype is torch.bool or "mask" in name:
        return torch.ones(shape, dtype=dtype)
    if "position" in name and shape:
        return torch.arange(shape[-1], dtype=dtype).expand(shape).contiguous()
    return torch.randint(0, 2, shape, generator=generator).to(dtype)
