"""Session: the decode steps of one generation, from the cache that the prompt left to the cache that is handed back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphwright.runtime.caches import Unservable
from graphwright.runtime.call import Call
from graphwright.runtime.generation.caches import GrowingCache, capacity_for
from graphwright.runtime.generation.engine import Engine
from graphwright.runtime.generation.greedy import GreedyReplay
from graphwright.runtime.generation.slots import POSITIONS, Slots

_TOKENS = ("input_ids", "decoder_input_ids")


class Session:
    """Decode steps on static buffers.

    Args:
        engine: Finds the graphs.
        model: The optimised model.
        arguments: Keyword arguments of the first step as `generate` would pass them to `forward`.
        limit: Number of tokens, prompt included, at which the generation ends; None if unknown.

    Attributes:
        length: Number of tokens in the cache.

    Raises:
        Unservable: No graph can serve these steps.
    """

    def __init__(self, engine: Engine, model: nn.Module, arguments: Mapping[str, Any], limit: int | None) -> None:
        self.engine, self.model = engine, model
        self.limit = None if limit is None else int(limit)
        self._given = engine.bind(model, arguments)
        self.growing = GrowingCache.of(self._given.pop("past_key_values", None))
        self._tokens = next((name for name in _TOKENS if name in self._given), "input_ids")
        self._mask = "decoder_attention_mask" if self._tokens.startswith("decoder") else "attention_mask"
        _check_first(self._given, self._tokens, self._mask, self.growing.length)
        self.length = self.growing.length
        self.released = False
        self.slots = self._slots(capacity_for(self.length + 1, self.limit))

    # ---- steps -------------------------------------------------------------------------------

    def advance(self, tokens: Tensor) -> Tensor:
        """Logits of the step on new tokens, [batch, 1]; positions go on by one. The result is overwritten later."""
        self._make_room()
        self._tensor(self._tokens).copy_(tokens)
        return self._run()

    def greedy(self, tokens: Tensor, sampler: Any, steps: int, watch: bool) -> Iterator[Tensor | None]:
        """Steps that choose their tokens themselves, as long as the buffers have room; on GPUs only.

        Args:
            tokens: The last tokens, [batch, 1].
            sampler: Knows which tokens end a sequence.
            steps: At most so many.
            watch: Yield each step's tokens on the host, [batch].
        """
        self._make_room()
        self._tensor(self._tokens).copy_(tokens)
        key = (None if sampler.ends is None else tuple(sampler.ends.tolist()), sampler.padding is None)
        if key not in self.slots.greedy:
            self.slots.greedy[key] = GreedyReplay(self.slots, self._tensor(self._tokens), sampler.ends, sampler.padding)
        replay: GreedyReplay = self.slots.greedy[key]
        self.start, self.history = self.length + 1, replay.history
        room = self.slots.inputs.own[0][0].shape[2] - self.length
        for chosen in replay.run(min(steps, room), sampler.unfinished.bool(), watch):
            self.length += 1
            self.engine.dispatcher.served += 1
            yield chosen

    def chosen(self) -> Tensor:
        """Tokens of the last run of `greedy`, [batch, steps]."""
        return self.history[:, self.start : self.length + 1]

    def follow(self, arguments: Mapping[str, Any]) -> Tensor:
        """Logits of the step with these arguments of `forward`.

        Raises:
            Unservable: The arguments are not those of the next step.
        """
        given = dict(self.engine.bind(self.model, arguments))
        given.pop("past_key_values", None)
        self._check_next(given)
        self._make_room()
        for name in (self._tokens, *POSITIONS):
            if name in given:
                self._tensor(name).copy_(given[name])
        if self._mask in given:
            self._tensor(self._mask)[:, : self.length + 1].copy_(given[self._mask])
        return self._run()

    def reorder(self, rows: Tensor) -> None:
        """Put row `rows[i]` of the cache into row `i`, as beam search asks for."""
        self.slots.reorder(rows, self.length)

    def release(self, needed: bool = True) -> Any:
        """The caller's cache, with all tokens in it if they are needed; ends the session."""
        if not self.released:
            self.released = True
            if needed:
                self.growing.take_back(self.slots.inputs.own, self.slots.inputs.cross, self.length)
            self.engine.keep(self.slots)
        return self.growing.cache

    def predicts(self, arguments: Mapping[str, Any]) -> bool:
        """Whether `advance` takes for granted what `generate` would pass to the coming step."""
        given = dict(self.engine.bind(self.model, arguments))
        given.pop("past_key_values", None)
        try:
            self._check_next(given)
        except Unservable:
            return False
        positions = [name for name in POSITIONS if name in given]
        mask = given.get(self._mask)
        same_mask = mask is None or torch.equal(mask, self._tensor(self._mask)[:, : self.length + 1])
        return same_mask and all(torch.equal(self._tensor(name), given[name]) for name in positions)

    # ---- details -----------------------------------------------------------------------------

    def _run(self) -> Tensor:
        logits = self.slots.run()
        self.length += 1
        self.engine.dispatcher.served += 1
        return logits

    def _tensor(self, name: str) -> Tensor:
        return self.slots.inputs.call.tensor(name)

    def _make_room(self) -> None:
        inputs = self.slots.inputs
        capacity = inputs.own[0][0].shape[2]
        if self.length >= capacity:
            self.growing.take_back(inputs.own, inputs.cross, self.length)
            self.growing = GrowingCache.of(self.growing.cache)
            moving = [name for name in (self._tokens, *POSITIONS) if name in self._given]
            self._given |= {name: self._tensor(name).clone() for name in moving}
            if self._mask in self._given:
                mask = self._tensor(self._mask)
                self._given[self._mask] = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)
            old, self.slots = self.slots, self._slots(capacity_for(self.length + 1, self.limit))
            self.engine.keep(old)

    def _slots(self, capacity: int) -> Slots:
        """Slots of a capacity, with the present cache in them."""
        arguments = dict(self._given)
        if self._mask in arguments:
            mask = arguments[self._mask]
            later = mask.new_ones(mask.shape[0], max(capacity - mask.shape[1], 0))
            arguments[self._mask] = torch.cat([mask[:, :capacity], later], dim=1)
        return self.engine.slots(self.model, Call(arguments), self._given, self.growing, capacity)

    def _check_next(self, given: Mapping[str, Any]) -> None:
        if set(given) != set(self._given):
            raise Unservable(f"a step has other arguments than the one before: {sorted(set(given) ^ set(self._given))}")
        for name, value in given.items():
            if name not in (self._tokens, self._mask, *POSITIONS) and not _is_same(value, self._given[name]):
                raise Unservable(f"argument '{name}' changes from step to step")
        if given[self._tokens].shape != self._given[self._tokens].shape:
            raise Unservable("a step has another number of tokens")
        if self._mask in given and given[self._mask].shape[1] != self.length + 1:
            raise Unservable("the mask is not as long as cache and token together")


def _is_same(value: Any, other: Any) -> bool:
    if value is other:
        return True
    if isinstance(value, Tensor):
        return isinstance(other, Tensor) and value.shape == other.shape and torch.equal(value, other)
    if isinstance(value, dict):
        return (
            isinstance(other, dict)
            and value.keys() == other.keys()
            and all(_is_same(value[k], other[k]) for k in value)
        )
    return type(value) is type(other) and not isinstance(value, (list, tuple)) and bool(value == other)


def _check_first(given: Mapping[str, Any], tokens: str, mask: str, length: int) -> None:
    ids = given.get(tokens)
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.shape[1] != 1:
        raise Unservable("a step is not one token for each sequence")
    if mask in given and tuple(given[mask].shape) != (ids.shape[0], length + 1):
        raise Unservable("the mask is not as long as cache and token together")
