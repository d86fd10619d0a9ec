"""Key/value caches of transformers as a layout and a flat list of tensors, and back.

A `DynamicCache` of `DynamicLayer`s and an `EncoderDecoderCache` of two of them are understood; any other cache is
`Unservable`, because its layers hold more than two tensors.
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


def _flatten_layers(layers: list[Any], tensors: list[torch.Tensor]) -> tuple[bool, ...]:
    from transformers.cache_utils import DynamicLayer

    filled = []
    for layer in layers:
        if type(layer) is not DynamicLayer:
            raise Unservable(f"a layer of the cache is a {type(layer).__name__}, only DynamicLayer is served")
        if layer.is_initialized:
            tensors += (layer.keys, layer.values)
        filled.append(layer.is_initialized)
    return tuple(filled)


def make_cache(layout: Layout, tensors: Iterator[torch.Tensor]) -> Any:
    """A new cache of a layout that takes its keys and values from `tensors`."""
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if layout[0] == "pair" else DynamicCache()
    store_cache(cache, layout, tensors)
    return cache


def store_cache(cache: Any, layout: Layout, tensors: Iterator[torch.Tensor]) -> None:
    """Bring a cache to a layout in place, with keys and values from `tensors`; the layers keep their identity."""
    from transformers.cache_utils import DynamicLayer

    if layout[0] == "pair":
        for part, part_layout in zip((cache.self_attention_cache, cache.cross_attention_cache), layout[1], strict=True):
            store_cache(part, part_layout, tensors)
        cache.is_updated.update(layout[2])
        return
    _, lazy, filled = layout
    cache.layer_class_to_replicate = DynamicLayer if lazy else None
    while len(cache.layers) < len(filled):
        cache.layers.append(DynamicLayer())
    for layer, is_filled in zip(cache.layers, filled, strict=True):
        if is_filled:
            _fill(layer, next(tensors), next(tensors))


def _fill(layer: Any, keys: torch.Tensor, values: torch.Tensor) -> None:
    layer.keys, layer.values = keys, values
    if not layer.is_initialized:
        layer.dtype, layer.device = keys.dtype, keys.device
        layer.is_initialized = True
