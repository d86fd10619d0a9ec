"""WeightWatch and WeightPlaces: notice that weights have changed since something was made of them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch

_SAMPLES = 4
_version = attrgetter("_version")
# One look at all addresses; only builds of torch for GPUs have it.
_are_in_place = getattr(torch._C, "_tensors_data_ptrs_at_indices_equal", None)


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


class WeightPlaces:
    """Tells whether recordings may still read weights where they lay, and values computed from weights are theirs.

    Recordings see what is written into a weight. They do not see that it has moved, and a value computed from it
    before has to be computed again.

    Args:
        read: Weights that recordings read.
        kept: Those that values were computed from.
    """

    def __init__(self, read: Sequence[torch.Tensor], kept: Sequence[torch.Tensor]) -> None:
        self._read, self._kept = list(read), list(kept)
        self._order = list(range(len(self._read)))
        self._addresses: list[int] = []
        self._versions: list[int] | None = None

    def moved(self) -> bool:
        """Whether a weight lies elsewhere than when `changed` was asked last."""
        if _are_in_place is not None and self._addresses:
            return not _are_in_place(self._read, self._addresses, self._order)
        return list(map(torch.Tensor.data_ptr, self._read)) != self._addresses

    def written(self) -> bool:
        """Whether a weight that values were computed from has been written to since then."""
        return list(map(_version, self._kept)) != self._versions

    def changed(self) -> bool:
        """Whether either is true, or this is the first question; from now on the present state counts."""
        if not self.moved() and not self.written():
            return False
        self._addresses = list(map(torch.Tensor.data_ptr, self._read))
        self._versions = list(map(_version, self._kept))
        return True
