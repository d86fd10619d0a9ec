"""Between the growing caches that callers hold and the buffers that decode steps write to."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from graphwright.runtime.caches import Unservable

Pair = tuple[Tensor, Tensor]
_STEP = 256


@dataclass(frozen=True)
class GrowingCache:
    """The layers of a `DynamicCache`, or of an `EncoderDecoderCache` of two.

    Attributes:
        cache: The caller's object.
        own: Layers of the self-attention.
        cross: Layers of the cross-attention, None without one.
        length: Number of tokens seen.
    """

    cache: Any
    own: Sequence[Any]
    cross: Sequence[Any] | None
    length: int

    @staticmethod
    def of(cache: Any) -> GrowingCache:
        """Look into a cache.

        Raises:
            Unservable: It is of another class, or a layer keeps something else than keys and values.
        """
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache

        pair = type(cache) is EncoderDecoderCache
        own = cache.self_attention_cache if pair else cache
        if type(own) is not DynamicCache or own.offloading:
            raise Unservable(f"the cache is a {type(own).__name__}, only a plain DynamicCache is served")
        cross = cache.cross_attention_cache.layers if pair else None
        if not own.layers or not all(_is_plain(layer) for layer in (*own.layers, *(cross or ()))):
            raise Unservable("a layer of the cache holds something else than keys and values")
        return GrowingCache(cache, own.layers, cross, int(own.get_seq_length()))

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The sliding window of each layer, None for a layer without one."""
        return tuple(getattr(layer, "sliding_window", None) for layer in self.own)

    def copy(self) -> Any:
        """Another cache with the same tensors, for a call that must leave this one as it is."""
        if self.cross is None:
            return _copy(self.cache)
        pair = copy.copy(self.cache)
        pair.self_attention_cache = _copy(self.cache.self_attention_cache)
        pair.cross_attention_cache = _copy(self.cache.cross_attention_cache)
        return pair

    def fill(self, buffers: Sequence[Pair]) -> None:
        """Copy keys and values into buffers, each token at its position."""
        for layer, pair in zip(self.own, buffers, strict=True):
            for tensor, buffer in zip((layer.keys, layer.values), pair, strict=True):
                buffer[:, :, self.length - tensor.shape[2] : self.length].copy_(tensor)

    def take_back(self, buffers: Sequence[Pair], cross: Sequence[Pair], length: int) -> Any:
        """The caller's cache with `length` tokens from the buffers."""
        for layer, window, (keys, values) in zip(self.own, self.windows, buffers, strict=True):
            start = 0 if window is None else max(length - window + 1, 0)
            layer.keys, layer.values = (buffer[:, :, start:length].clone() for buffer in (keys, values))
            if window is not None:
                layer.cumulative_length = length
        for layer, (keys, values) in zip(self.cross or (), cross, strict=True):
            layer.keys, layer.values = keys.clone(), values.clone()
        return self.cache


def _copy(cache: Any) -> Any:
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    return new


def _is_plain(layer: Any) -> bool:
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    plain = type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) and not getattr(layer, "record_past", False)
    return plain and layer.is_initialized and layer.keys is not None and layer.keys.dim() == 4


def capacity_for(tokens: int, limit: int | None) -> int:
    """Slots of a buffer for `tokens` tokens now and `limit` in the end, as a multiple of 256.

    A short generation gets all it needs at once; a long one starts with twice what is there.
    """
    wanted = 2 * tokens + _STEP if limit is None else max(tokens, min(limit, 2 * tokens + _STEP))
    return -(-wanted // _STEP) * _STEP
