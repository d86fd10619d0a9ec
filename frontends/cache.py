"""Key/value caches as pytrees, so that they go in and out of torch.export.

A cache flattens to its tensors, layer by layer, key before value. The tensors of an encoder-decoder cache are those of
the decoder's self-attention, then those of the cross-attention:

| cache | leaf names |
|---|---|
| `DynamicCache`, `StaticCache`, any subclass of `Cache` | `0.key`, `0.value`, `1.key`, ... |
| `EncoderDecoderCache` | `0.decoder.key`, `0.decoder.value`, ..., `0.encoder.key`, ... |
| recurrent layers | `0.conv_states.0`, `0.recurrent_states.0`, ... |

An empty cache, or a layer without content, has no leaves. Everything else a cache holds (classes, window sizes, flags)
is kept in the layout as plain JSON values. A class that somebody else registered before, such as transformers'
`register_dynamic_cache_export_support`, keeps that registration.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphwright.frontends.cache_state import Decoder, Encoder, class_path

_SIDES = {"self_attention_cache": "decoder", "cross_attention_cache": "encoder"}
_PARTS = {"keys": "key", "values": "value", "key_cache": "key", "value_cache": "value"}


def register_caches(model: torch.nn.Module | None = None) -> None:
    """Register transformers' cache classes, and those of the model's own source file, as pytree nodes.

    May be called any number of times. Does nothing while transformers is not imported.
    """
    if "transformers" not in sys.modules:
        return
    from transformers.cache_utils import Cache

    for cls in [*_subclasses(Cache), *_own_caches(model)]:
        if cls not in pytree.SUPPORTED_NODES:
            pytree.register_pytree_node(
                cls,
                flatten,
                unflatten,
                serialized_type_name=class_path(cls),
                flatten_with_keys_fn=_flatten_with_keys,
            )


def _subclasses(cls: Any) -> Iterator[Any]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _own_caches(model: torch.nn.Module | None) -> list[type]:
    """Cache-like classes that the model's source files define beside transformers' own hierarchy."""
    files = {type(module).__module__ for module in model.modules()} if model is not None else set()
    return [
        item
        for file in sorted(files)
        for item in vars(sys.modules.get(file, torch)).values()
        if isinstance(item, type)
        and item.__name__.endswith(("Cache", "KVSharingDict"))
        and not issubclass(item, torch.nn.Module)
        and item.__module__.startswith("transformers.")
        and not _is_layer(item)
    ]


def _is_layer(cls: type) -> bool:
    return any(base.__name__.endswith(("LayerMixin", "Layer")) for base in cls.__mro__[1:])


def flatten(cache: Any) -> tuple[list[Any], list[Any]]:
    """Tensors of a cache, and its layout `[leaf names, structure]`."""
    encoder = Encoder()
    structure = encoder.encode(cache, ())
    return encoder.values, [[leaf_name(path) for path in encoder.paths], structure]


def unflatten(values: Any, layout: Sequence[Any]) -> Any:
    """A cache of the recorded classes that holds `values`."""
    return Decoder(list(values)).decode(layout[1])


def _flatten_with_keys(cache: Any) -> tuple[list[tuple[Any, Any]], list[Any]]:
    values, layout = flatten(cache)
    return [(pytree.MappingKey(name), value) for name, value in zip(layout[0], values, strict=True)], layout


def leaf_name(path: Sequence[Any]) -> str:
    """`0.decoder.key` for the path `self_attention_cache, layers, 0, keys`."""
    side = [_SIDES[part] for part in path if part in _SIDES]
    rest = [part for part in path if part not in _SIDES and part != "layers"]
    if len(rest) == 2 and rest[0] in _PARTS:
        rest.reverse()
    names = [str(_PARTS.get(part, part)) for part in rest]
    return ".".join([*names[:1], *side, *names[1:]])


def cache_names(cache: Any, prefix: str = "past_key_values") -> list[str]:
    """Names of a cache's leaves in flatten order: `past_key_values.0.key`, `past_key_values.0.value`, ...

    Args:
        cache: A cache, whoever registered its class.
        prefix: `past_key_values` for inputs, `present` for outputs.
    """
    leaves, _ = pytree.tree_flatten_with_path(cache)
    paths = [[getattr(key, "key", getattr(key, "idx", None)) for key in path] for path, _ in leaves]
    return [f"{prefix}.{leaf_name(path)}" for path in paths]
