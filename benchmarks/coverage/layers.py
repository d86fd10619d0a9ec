"""Which layers of a config stay when it is made small: the first of each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.coverage.sizes import is_depth, is_layer_positions, is_stages

_MOST = 5


class Layers:
    """The layers of one config.

    Args:
        settings: Of the config; without any, nothing is known about layers.

    Attributes:
        default: Number of layers before.
        kept: Positions of those that stay.
        lists: Settings with one entry per layer.
        staged: Whether it is a model of stages: its lists have one entry per stage.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        depths = {value for name, value in settings.items() if is_depth(name) and is_int(value) and value > 0}
        lists = {name: value for name, value in settings.items() if isinstance(value, (list, tuple))}
        self.staged = any(is_stages(name) and all(map(is_int, value)) for name, value in lists.items())
        if self.staged:
            depths, lists = set(), {}
        per_layer = {
            name: value
            for name, value in lists.items()
            if len(value) > 2 and len(value) in depths and [*value] != [*range(len(value))]
        }
        self.default = max(map(len, per_layer.values()), default=max(depths, default=0))
        self.lists = {name: value for name, value in per_layer.items() if len(value) == self.default}
        self.kept = self._first_of_each_kind([v for name, v in lists.items() if is_layer_positions(name, v)])

    @property
    def count(self) -> int:
        """Number of layers that stay."""
        return len(self.kept)

    def _first_of_each_kind(self, chosen: Sequence[Sequence[int]]) -> list[int]:
        """At least two, and one more than any list names that does not name them all."""
        first: dict[Any, int] = {}
        for i in range(self.default):
            first.setdefault(tuple(repr(value[i]) for value in self.lists.values()), i)
        named = [len(value) + 1 for value in chosen if len(value) < self.default]
        wanted = min(max(2, len(first), *named, 0), self.default, _MOST)
        kept = sorted(first.values())[:wanted]
        others = [i for i in range(self.default) if i not in kept]
        return sorted([*kept, *others[: wanted - len(kept)]])

    def positions(self, value: Sequence[int]) -> list[int]:
        """Positions of layers of some kind, among the layers that stay."""
        if len(value) >= self.default or all(i < self.count for i in value):
            return [i for i in value if i < self.count]
        return list(range(1, self.count))[-len(value) :]


def is_int(value: Any) -> bool:
    """Whether a setting is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)
