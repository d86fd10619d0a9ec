"""Inputs of a region: random, but each drawn again from the same number, so that a script can repeat it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from graphwright.ir.symbols import parse_size, parse_type

_NAME = re.compile(r"[A-Za-z_]\w*")
_CALLS = frozenset({"Max", "Min", "FloorDiv", "CleanDiv", "CeilDiv", "Mod", "PythonMod", "int", "float", "bool"})
LARGEST = 1 << 24


@dataclass(frozen=True)
class Draw:
    """One random tensor.

    Args:
        shape: Its sizes.
        dtype: Its element type.
        seed: Where its generator starts.
        scale: Factor of floating-point values.
        masked: Make rows of a mask: row 0 is all masked, row 1 masked on the right, the last row kept.
        kept: All ones, for masks that keep everything.
        lowest: What an additive mask has where it is masked; None for tensors that are not additive masks.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    seed: int
    scale: float = 1.0
    masked: bool = False
    lowest: float | None = None
    kept: bool = False

    def tensor(self) -> torch.Tensor:
        """Draw it."""
        generator = torch.Generator().manual_seed(self.seed)
        if self.lowest is not None:
            keep = masked_rows(torch.randint(0, 2, self.shape, generator=generator), self.masked)
            return torch.where(keep == 1, 0.0, self.lowest).to(self.dtype)
        if not self.dtype.is_floating_point and not self.dtype.is_complex:
            if self.kept:
                return torch.ones(self.shape, dtype=self.dtype)
            return masked_rows(torch.randint(0, 2, self.shape, generator=generator), self.masked).to(self.dtype)
        values = torch.randn(self.shape, generator=generator, dtype=torch.float32)
        return (values * self.scale).to(self.dtype)


def masked_rows(values: torch.Tensor, masked: bool) -> torch.Tensor:
    """Rows along the first axis: nothing kept, the first half kept, ..., all kept."""
    if masked and values.dim() > 1 and values.numel():
        values[0] = 0
        if values.size(0) > 2:
            values[1, ..., : values.size(-1) // 2 + 1], values[1, ..., values.size(-1) // 2 + 1 :] = 1, 0
        if values.size(0) > 1:
            values[-1] = 1
    return values


def symbols_in(types: list[str]) -> list[str]:
    """Names of the dimensions in type texts, in order of first use."""
    inside = (part for text in types for part in re.findall(r"\[([^\]]*)\]|int\((.*?)\)$", text))
    names = (name for pair in inside for name in _NAME.findall(pair[0] or pair[1]))
    return [name for name in dict.fromkeys(names) if name not in _CALLS]


def describe(text: str, sizes: Mapping[str, int]) -> Any:
    """A tensor on the meta device, a number, or a tuple of them, of the type that `text` says."""
    text = re.sub(r"@[\w:]+", "", text)
    if text in ("int", "bool", "float", ""):
        return None
    number = re.fullmatch(r"int\((.*)\)", text)
    if number:
        return parse_size(number[1], sizes)
    with torch.device("meta"):
        return parse_type(re.sub(r"\](?=$|, |\))", "]@meta", text), sizes)
