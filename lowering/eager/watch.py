"""WeightWatch: notices that weights have changed since values were computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

_SAMPLES = 4


class WeightWatch:
    """Tells whether weights are as they were at the last question.

    Memory, type and version counter are compared. Writing through `weight.data` leaves all of them as they are, so
    some elements of each weight on a CPU are compared as well: that finds an update, a merge or a new initialisation,
    though not the change of single elements.

    Args:
        weights: The weights.
        sample: Compare elements; not needed where what was computed only looks into the weights.
    """

    def __init__(self, weights: Sequence[torch.Tensor], *, sample: bool) -> None:
        self.weights, self.sample = weights, sample
        self._token: Any = None
        self._views: list[torch.Tensor] = []
        self._values = torch.empty(0)

    def changed(self) -> bool:
        """Whether a weight has changed since the last call, or this is the first."""
        token = [(w.data_ptr(), w._version, w.dtype, w.device) for w in self.weights]
        if token != self._token:
            self._token = token
            watched = [w for w in self.weights if w.device.type == "cpu" and w.layout == torch.strided]
            self._views = [_elements(weight) for weight in watched] if self.sample else []
            self._values = torch.cat(self._views) if self._views else self._values
            return True
        if not self._views:
            return False
        values = torch.cat(self._views)
        same = torch.equal(values, self._values)
        self._values = values
        return not same


def _elements(weight: torch.Tensor) -> torch.Tensor:
    """A view of some elements, evenly spread over the weight's memory."""
    within = weight.untyped_storage().nbytes() // weight.element_size() - weight.storage_offset()
    span = min(weight.numel(), within)
    step = max(span // _SAMPLES, 1)
    return weight.detach().as_strided((min(span, _SAMPLES),), (step,), weight.storage_offset())
