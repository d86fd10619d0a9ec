"""The `fuse-norm` pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphwright.passes.base import Pass
from graphwright.passes.norm.layer import LayerNorm, LayerNormBiased, LayerNormNarrowed, LayerNormWeighted
from graphwright.passes.norm.rms import RmsNorm, RmsNormNarrowed, RmsNormWeighted
from graphwright.passes.patterns import Rule


@dataclass(frozen=True)
class FuseNorm(Pass):
    """Fuse hand-written RMS norms and layer norms into `aten.rms_norm` and `aten.layer_norm`.

    `aten.rms_norm` computes half precision in float32, weight included, and rounds once at the end. A model that casts
    back to half before it multiplies by the weight rounds twice, so there the weight stays outside; a model that
    computes in half precision throughout is left alone. RMS norms are exact. Layer norms agree to the last bits of the
    dtype (1e-6 in float32), because the fused kernel adds in another order.
    """

    name = "fuse-norm"
    requires = frozenset({"functional", "canonical"})
    rules: ClassVar[tuple[type[Rule], ...]] = (
        LayerNormNarrowed,
        LayerNormBiased,
        LayerNormWeighted,
        LayerNorm,
        RmsNormNarrowed,
        RmsNormWeighted,
        RmsNorm,
    )
