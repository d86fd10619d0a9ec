"""One measured ratio and the limit it must keep."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Measurement:
    """A measured value.

    Args:
        name: What was measured.
        value: The result: a ratio, or seconds.
        limit: Largest value that is fine.
        detail: The numbers behind it.
    """

    name: str
    value: float
    limit: float
    detail: str

    @property
    def ok(self) -> bool:
        """Whether the limit is kept."""
        return self.value <= self.limit

    def print(self) -> None:
        """Print as one line of JSON, which `benchmarks.sizes` collects."""
        print(json.dumps(asdict(self)), flush=True)
