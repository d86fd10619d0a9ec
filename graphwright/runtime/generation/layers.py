"""The cache that a decode step is captured with: buffers of fixed size, written at a position that is a tensor.

Import this module only where transformers is loaded anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer, EncoderDecoderCache
from transformers.modeling_outputs import CausalLMOutputWithPast, Seq2SeqLMOutput

from graphwright.runtime.caches import Unservable
from graphwright.runtime.generation.engine import Engine
from graphwright.runtime.generation.session import Session

Pair = tuple[Tensor, Tensor]


class BufferLayer(CacheLayerMixin):
    """One layer whose keys and values are buffers of the whole capacity.

    Slots at and after the position hold nothing of meaning; the causal mask hides them.

    Args:
        pair: Keys and values, [batch, heads, capacity, width].
        position: Number of slots in use, [].
        window: Sliding window of the layer, None for a layer without one. The buffer holds more than the window, the
            mask hides what has left it.
    """

    is_compileable = True

    def __init__(self, pair: Pair, position: Tensor, window: int | None) -> None:
        super().__init__()
        self.keys, self.values = pair
        self.position = position
        self.is_sliding = window is not None
        self.is_initialized = True
        self.dtype, self.device = self.keys.dtype, self.keys.device

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the buffers are there."""

    def pair(self) -> Pair:
        """The buffers."""
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Pair:
        """Write one new token and return the buffers."""
        slot = self.position.view(1)
        keys, values = self.pair()
        self.keys, self.values = keys.index_copy(2, slot, key_states), values.index_copy(2, slot, value_states)
        return self.pair()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and first position of the keys."""
        return self.get_max_length(), 0

    def get_seq_length(self) -> Any:
        """Number of tokens so far, as a tensor."""
        return self.position

    def get_max_length(self) -> int:
        """Number of slots."""
        return self.pair()[0].shape[2]


def step_cache(own: Sequence[BufferLayer], cross: Sequence[Pair] | None) -> Any:
    """A cache of these layers; with `cross`, that of an encoder-decoder whose cross-attention is complete."""
    cache = Cache(layers=list(own))
    if cross is None:
        return cache
    pair = EncoderDecoderCache(cache, _complete(cross))
    pair.is_updated = dict.fromkeys(range(len(cross)), True)
    return pair


def _complete(pairs: Sequence[Pair]) -> DynamicCache:
    cache = DynamicCache()
    cache.layer_class_to_replicate = None
    for keys, values in pairs:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


class SessionCache(Cache):
    """Stands for a growing cache in transformers' own loops; the steps that get it are served by a session.

    Args:
        engine: Finds the graphs.
        cache: The cache that the prompt left.
        limit: Number of tokens at which the generation ends, None if unknown.
    """

    is_compileable = False

    def __init__(self, engine: Engine, cache: Any, limit: int | None) -> None:
        self.engine, self.inner, self.limit = engine, cache, limit
        self.session: Session | None = None
        self.layers = []

    def graphwright_serve(self, model: Any, arguments: dict[str, Any]) -> Any:
        """Serve a call of `forward` with this cache; a call that cannot be served gets the growing cache back."""
        try:
            if self.session is None:
                self.session = Session(self.engine, model, arguments | {"past_key_values": self.inner}, self.limit)
            logits = self.session.follow(arguments)
        except Unservable as reason:
            self.engine.dispatcher.say(str(reason))
            return model(**arguments | {"past_key_values": self.release()})
        output: Any = Seq2SeqLMOutput if model.config.is_encoder_decoder else CausalLMOutputWithPast
        return output(logits=logits, past_key_values=self)

    def release(self, needed: bool = True) -> Any:
        """The growing cache, with all tokens if they are needed."""
        return self.inner if self.session is None else self.session.release(needed)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens so far."""
        return int(self.inner.get_seq_length()) if self.session is None else self.session.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put row `beam_idx[i]` into row `i`."""
        if self.session is None:
            self.inner.reorder_cache(beam_idx)
        else:
            self.session.reorder(beam_idx)
