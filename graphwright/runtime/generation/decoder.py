"""What a loop over tokens asks for logits: a session on static buffers, or else the model's own growing cache."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from graphwright.runtime.caches import Unservable
from graphwright.runtime.generation.engine import Engine
from graphwright.runtime.generation.session import Session


class Decoder:
    """Decode steps of one generation.

    The first step asks transformers what to pass to `forward`. If the second one shows that only tokens and positions
    change, nothing is asked any more.

    Args:
        model: The optimised model.
        engine: Finds the graphs.
        arguments: What `generate` keeps for `forward`, with the cache that the prompt left.
        limit: Number of tokens at which the generation ends, None if unknown.
    """

    def __init__(self, model: Any, engine: Engine, arguments: dict[str, Any], limit: int | None) -> None:
        self.model, self.engine, self.arguments, self.limit = model, engine, arguments, limit
        self.session: Session | None = None
        self._served = True
        self._predicted = False

    @property
    def is_steady(self) -> bool:
        """Whether a session serves the steps and knows what they take."""
        return self.session is not None and self._predicted

    def logits(self, ids: Tensor) -> Tensor:
        """Logits of the last of these tokens, [batch, vocabulary]; `ids` are all so far."""
        if self.session is not None and self._predicted:
            return self.session.advance(ids[:, -1:])[:, -1]
        if self._served:
            try:
                return self._ask(ids)[:, -1]
            except Unservable as reason:
                self._give_up(reason)
        return self._grow(ids)[:, -1]

    def _ask(self, ids: Tensor) -> Tensor:
        given = self._prepare(ids)
        if self.session is None:
            self.session = Session(self.engine, self.model, given, self.limit)
            logits = self.session.advance(ids[:, -1:])
        else:
            self._predicted = self.session.predicts(given)
            logits = self.session.follow(given)
        self._next_arguments()
        return logits

    def _prepare(self, ids: Tensor) -> dict[str, Any]:
        length = 1 if self.arguments.get("use_cache") else None
        given = self.model.prepare_inputs_for_generation(ids, next_sequence_length=length, **self.arguments)
        return given | {"return_dict": True}

    def _next_arguments(self) -> None:
        """Grow masks and positions as transformers does after each step."""
        self.arguments = self.model._update_model_kwargs_for_generation(
            {}, self.arguments, is_encoder_decoder=self.model.config.is_encoder_decoder
        )

    def _grow(self, ids: Tensor) -> Tensor:
        result = self.model(**self._prepare(ids))
        self.arguments = self.model._update_model_kwargs_for_generation(
            result, self.arguments, is_encoder_decoder=self.model.config.is_encoder_decoder
        )
        logits: Tensor = result.logits
        return logits

    def _give_up(self, reason: Unservable) -> None:
        self._served = False
        self.engine.dispatcher.say(str(reason))
        if self.session is not None:
            self.arguments["past_key_values"] = self.session.release()
            self.session = None

    def finish(self, needed: bool) -> Any:
        """The cache after the last step, None without one; with all tokens if they are needed, or the user's own."""
        cache = self.arguments.get("past_key_values")
        if self.session is None:
            return cache
        return self.session.release(needed or getattr(self.session.growing.cache, "_is_user_defined", False))
