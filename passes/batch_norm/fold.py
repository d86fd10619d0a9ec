"""The `fold-batch-norm` pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphwright.passes.base import Pass
from graphwright.passes.batch_norm.rules import FuseBatchNormInConv, FuseBatchNormInLinear, FuseLinearAfterBatchNorm
from graphwright.passes.patterns import Rule


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold batch norms in evaluation mode into the convolution or linear before them, or the linear after them.

    The new weights are expressions in the graph, which targets compute once; the state keeps the model's own tensors.
    Results agree to a few roundings of the dtype. A batch norm in training mode is left alone.
    """

    name = "fold-batch-norm"
    requires = frozenset({"functional"})
    rules: ClassVar[tuple[type[Rule], ...]] = (FuseBatchNormInConv, FuseBatchNormInLinear, FuseLinearAfterBatchNorm)
