"""What a cache holds for one layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_SIDES = ("self_attention_cache", "cross_attention_cache")
_FLAGS = "is_updated"

Place = tuple[str, str]


def is_cache(value: Any) -> bool:
    """Whether a value is a transformers cache; transformers is not imported for the question."""
    return any(base.__name__ == "Cache" and base.__module__.startswith("transformers") for base in type(value).__mro__)


class Slot:
    """The part of a cache that belongs to one layer, readable and writable by place, and the rest of it.

    Args:
        cache: A cache of layers, or the pair of an encoder-decoder.
        index: Number of the layer.
    """

    def __init__(self, cache: Any, index: int) -> None:
        self.cache, self.index = cache, index

    def items(self) -> Iterator[tuple[Place, Any]]:
        """Place and value of all that the layer's part holds."""
        for side, cache in self._sides():
            if self.index < len(cache.layers):
                yield from (((side, name), value) for name, value in vars(cache.layers[self.index]).items())
        if hasattr(self.cache, _FLAGS):
            yield (_FLAGS, ""), self.cache.is_updated.get(self.index)

    def store(self, place: Place, value: Any) -> None:
        """Put a value where `items` found one."""
        side, name = place
        if side == _FLAGS:
            self.cache.is_updated[self.index] = value
        else:
            vars(dict(self._sides())[side].layers[self.index])[name] = value

    def rest(self) -> list[Any]:
        """Everything else in the cache, in a fixed order."""
        found: list[Any] = []
        for _, cache in self._sides():
            found += [value for name, value in vars(cache).items() if name != "layers"]
            for i, layer in enumerate(cache.layers):
                found += [layer, *(vars(layer).values() if i != self.index else ())]
        flags = getattr(self.cache, _FLAGS, {})
        return [*found, *(value for i, value in flags.items() if i != self.index)]

    def _sides(self) -> list[tuple[str, Any]]:
        if hasattr(self.cache, _SIDES[0]):
            return [(side, getattr(self.cache, side)) for side in _SIDES]
        return [("", self.cache)]
