"""What kernels make of a packed weight, kept until the weight changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from graphwright.ir.packed import PackedWeight

T = TypeVar("T")


class Kept:
    """Values by name; forgotten when the weight that they were made of is another, or was written to."""

    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        self._stamp: tuple[Any, ...] = ()

    def refresh(self, packed: PackedWeight) -> None:
        """Forget everything unless `packed` is what it was at the last call."""
        stamp = tuple(map(_stamp, (packed.weight, packed.scales, packed.zeros)))
        if stamp != self._stamp:
            self._stamp = stamp
            self.values.clear()

    def get(self, name: Any, make: Callable[[], T]) -> T:
        """The value of this name, made where there is none; usable in and out of inference mode."""
        if name not in self.values:
            with torch.inference_mode(False), torch.no_grad():
                self.values[name] = make()
        return self.values[name]


def _stamp(tensor: Tensor | None) -> tuple[int, int]:
    if tensor is None:
        return 0, 0
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version
