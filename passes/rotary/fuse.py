"""The `fuse-rotary` pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.passes.base import Pass
from graphwright.passes.patterns import Rule
from graphwright.passes.rotary.complex import ComplexRotary
from graphwright.passes.rotary.rules import HalfAngleRotary, PartialRotary, Rotary


@dataclass(frozen=True)
class FuseRotary(Pass):
    """Fuse rotary position embeddings into `graphwright::rotary_embedding`.

    Halves or neighbouring features as pairs, all features or the first ones, full or half angles: exact, since the op's
    reference does the same arithmetic. Products of complex numbers agree to the last bits.
    """

    name = "fuse-rotary"
    requires = frozenset({"functional", "canonical"})
    rules: ClassVar[tuple[type[Rule], ...]] = (PartialRotary, Rotary, HalfAngleRotary, ComplexRotary)
