"""Key/value caches of transformers as a layout and a flat list of tensors, and back.

A `DynamicCache` and an `EncoderDecoderCache` of two of them are understood. Their layers keep all keys and values, or
a sliding window that has not been exceeded yet. Any other cache is `Unservable`, because its layers hold more than two
tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch

Layout = tuple[Any, ...]


class Unservable(Exception):
    """A call that no captured graph can serve; the message is the reason."""


def is_cache(value: Any) -> bool:
    """Whether a value is a cache of transformers (which is not imported for the question)."""
    module = sys.modules.get("transformers.cache_utils")
    return module is not None and isinstance(value, module.Cache)


def flatten_cache(cache: Any, tensors: list[torch.Tensor]) -> Layout:
    """Append the tensors of a cache to `tensors` and return its layout, which is hashable.

    Raises:
        Unservable: The cache holds something other than keys and values.
    """
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    if type(cache) is EncoderDecoderCache:
        parts = (cache.self_attention_cache, cache.cross_attention_cache)
        layouts = tuple(flatten_cache(part, tensors) for part in parts)
        return ("pair", layouts, tuple(sorted(cache.is_updated.items())))
    if type(cache) is not DynamicCache or cache.offloading:
        raise Unservable(f"the cache is a {type(cache).__name__}, only a plain DynamicCache is served")
    return ("dynamic", cache.layer_class_to_replicate is not None, _flatten_layers(cache.layers, tensors))


def _flatten_layers(layers: list[Any], tensors: list[torch.Tensor]) -> tuple[tuple[int | None, bool], ...]:
    """(sliding window, is filled) of each layer."""
    kinds = []
    for layer in layers:
        kinds.append((_window(layer), layer.is_initialized))
        if layer.is_initialized:
            tensors += (layer.keys, layer.values)
    return tuple(kinds)


def _window(layer: Any) -> int | None:
    """The sliding window of a layer, None for a layer without one."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if type(layer) is DynamicLayer:
        return None
    if type(layer) is not DynamicSlidingWindowLayer or getattr(layer, "record_past", False):
        raise Unservable(f"a layer of the cache is a {type(layer).__name__}")
    if layer.keys is not None and layer.cumulative_length != layer.keys.shape[-2]:
        raise Unservable("the sliding window of a cache is full")
    return layer.sliding_window


def make_cache(layout: Layout, tensors: Iterator[torch.Tensor]) -> Any:
    """A new cache of a layout that takes its keys and values from `tensors`."""
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if layout[0] == "pair" else DynamicCache()
    store_cache(cache, layout, tensors)
    return cache


def store_cache(cache: Any, layout: Layout, tensors: Iterator[torch.Tensor]) -> None:
    """Bring a cache to a layout in place, with keys and values from `tensors`; the layers keep their identity."""
    if layout[0] == "pair":
        for part, part_layout in zip((cache.self_attention_cache, cache.cross_attention_cache), layout[1], strict=True):
            store_cache(part, part_layout, tensors)
        cache.is_updated.update(layout[2])
        return
    from transformers.cache_utils import DynamicLayer

    _, lazy, kinds = layout
    cache.layer_class_to_replicate = DynamicLayer if lazy else None
    cache.layers += [_new_layer(window) for window, _ in kinds[len(cache.layers) :]]
    for layer, (window, is_filled) in zip(cache.layers, kinds, strict=True):
        if is_filled:
            _fill(layer, window, next(tensors), next(tensors))


def _new_layer(window: int | None) -> Any:
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    return DynamicLayer() if window is None else DynamicSlidingWindowLayer(sliding_window=window)


def _fill(layer: Any, window: int | None, keys: torch.Tensor, values: torch.Tensor) -> None:
    if not layer.is_initialized:
        layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    if window is not None:
        layer.cumulative_length = keys.shape[-2]
