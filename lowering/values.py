"""Value: what an emitter is given for a tensor of the program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class Value:
    """A value of the program in a target's graph.

    Args:
        out: What the target's library has for it.
        fake: Its element type and sizes.
    """

    out: Any
    fake: torch.Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Element type."""
        return self.fake.dtype

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return self.fake.dim()

    @property
    def shape(self) -> tuple[Any, ...]:
        """Sizes: numbers, or SymInts where they are dynamic."""
        return tuple(self.fake.shape)
