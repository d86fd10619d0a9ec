"""GeneratesFast: what `optimize` adds to models that have transformers' `generate`."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from torch import Tensor

from graphwright.runtime.dispatch import Dispatcher
from graphwright.runtime.generation.engine import Engine
from graphwright.runtime.generation.prefill import prefilling

# Stand-ins for caches that a beam search has made, and the length at which it ends.
_searching: ContextVar[tuple[list[Any], int | None] | None] = ContextVar("searching", default=None)


class GeneratesFast:
    """Mixin before a `GenerationMixin`: its loops decode on static buffers where they can."""

    _graphwright_dispatcher: Dispatcher
    _graphwright_engine: Engine

    def _sample(
        self,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """Greedy decoding and sampling."""
        if not _is_served(self, generation_config, model_kwargs, synced_gpus):
            return super()._sample(  # type: ignore[misc]
                input_ids, logits_processor, stopping_criteria, generation_config, synced_gpus, streamer, **model_kwargs
            )
        from graphwright.runtime.generation.sample import Sampler, sample

        sampler = Sampler(logits_processor, stopping_criteria, generation_config, input_ids.shape[0], input_ids.device)
        return sample(self, self._graphwright_engine, input_ids, sampler, generation_config, streamer, model_kwargs)

    def _beam_search(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Beam search: transformers' loop, each step of which is served on static buffers."""
        settings = kwargs.get("generation_config")
        if hasattr(self, "_reorder_cache") or settings is None or not _is_served(self, settings, kwargs, False):
            return super()._beam_search(input_ids, *args, **kwargs)  # type: ignore[misc]
        stand_ins: list[Any] = []
        token = _searching.set((stand_ins, settings.max_length))
        try:
            result = super()._beam_search(input_ids, *args, **kwargs)  # type: ignore[misc]
            if getattr(result, "past_key_values", None) in stand_ins:
                result.past_key_values = result.past_key_values.release()
            return result
        finally:
            _searching.reset(token)
            for stand_in in stand_ins:
                stand_in.release(getattr(stand_in.inner, "_is_user_defined", False))

    def _prefill(self, *args: Any, **kwargs: Any) -> Any:
        """The prompt; within a beam search its cache comes out as a stand-in whose steps are served."""
        token = prefilling.set(not self.config.is_encoder_decoder)  # type: ignore[attr-defined]
        try:
            result = super()._prefill(*args, **kwargs)  # type: ignore[misc]
        finally:
            prefilling.reset(token)
        search = _searching.get()
        if search is not None and getattr(result, "past_key_values", None) is not None:
            from graphwright.runtime.generation.layers import SessionCache

            result.past_key_values = SessionCache(self._graphwright_engine, result.past_key_values, search[1])
            search[0].append(result.past_key_values)
        return result


def _is_served(model: Any, settings: Any, arguments: Any, synced: bool) -> bool:
    """Whether the loops here do what this generation asks for."""
    from transformers.generation.utils import GenerationMixin

    options = ("output_attentions", "output_hidden_states", "prefill_chunk_size", "is_assistant")
    own = ("_sample", "_beam_search", "_prefill", "_update_model_kwargs_for_generation")
    original = type(model._graphwright_original)
    return (
        not synced
        and not any(getattr(settings, option, None) for option in options)
        and settings.cache_implementation in (None, "dynamic")
        and bool(arguments.get("use_cache", True))
        and all(getattr(original, name, None) is getattr(GenerationMixin, name) for name in own)
        and not model.training
    )
