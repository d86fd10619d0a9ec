"""The `fuse-activation` pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphwright.passes.activation.rules import ErfGelu, Silu, TanhGelu
from graphwright.passes.base import Pass
from graphwright.passes.patterns import Rule


@dataclass(frozen=True)
class FuseActivation(Pass):
    """Fuse GELU (erf and tanh) and SiLU, in the spellings that models use, into `aten.gelu` and `aten.silu`.

    Agrees to the last bits of the dtype, plus what a constant that the model cut short (0.79788456) differs by, 1e-6 of
    it at most. In half precision the fused op is the more accurate one: it computes in float32 and rounds once.
    `x * sigmoid(1.702 * x)` (quick GELU) has no op in ATen and stays.
    """

    name = "fuse-activation"
    requires = frozenset({"functional", "canonical"})
    rules: ClassVar[tuple[type[Rule], ...]] = (ErfGelu, TanhGelu, Silu)
