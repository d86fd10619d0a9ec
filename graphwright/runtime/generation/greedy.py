"""Greedy decoding on a GPU with the choice of the token in the same CUDA graph: nothing waits for the host.

Whether all sequences are finished, and the tokens for a streamer, reach the host one step late; the step that was one
too many is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from graphwright.runtime.generation.replay import Replay
from graphwright.runtime.generation.slots import Slots


def argmax(scores: Tensor) -> Tensor:
    """The first index of the largest element of each row, [batch, n] -> [batch].

    ATen gives each row to one block of threads; two rounds keep the whole GPU busy.
    """
    n = scores.shape[1]
    width = next((width for width in range(min(512, n), 31, -1) if n % width == 0), 0)
    if not width:
        return scores.argmax(dim=-1)
    parts = scores.view(scores.shape[0], n // width, width)
    part = parts.amax(dim=-1).argmax(dim=-1)
    inside = parts.gather(1, part.view(-1, 1, 1).expand(-1, 1, width)).view(-1, width)
    return part * width + inside.argmax(dim=-1)


class GreedyReplay:
    """Steps of one memory that choose their next token themselves.

    Args:
        slots: Where the steps run.
        tokens: The input that takes the token, [batch, 1].
        ends: Tokens that end a sequence, [n]; None if none does.
        padding: What follows such a token, []; None without `ends`.
    """

    def __init__(self, slots: Slots, tokens: Tensor, ends: Tensor | None, padding: Tensor | None) -> None:
        self.slots, self.tokens, self.ends, self.padding = slots, tokens, ends, padding
        batch, capacity = tokens.shape[0], slots.inputs.own[0][0].shape[2]
        self.history = torch.zeros(batch, capacity + 1, dtype=torch.long, device=tokens.device)
        self.unfinished = torch.ones(batch, dtype=torch.bool, device=tokens.device)
        self.active = torch.ones((), dtype=torch.bool, device=tokens.device)
        self._pinned = [
            (torch.ones((), dtype=torch.bool).pin_memory(), torch.zeros(batch, dtype=torch.long).pin_memory())
            for _ in range(2)
        ]
        self._events = [torch.cuda.Event() for _ in range(2)]
        self._replay = Replay(self._step, slots.warm_up)

    def _step(self) -> None:
        chosen = argmax(self.slots.step()[:, -1].float())
        if self.ends is not None and self.padding is not None:
            chosen = torch.where(self.unfinished, chosen, self.padding)
            self.unfinished.logical_and_(torch.isin(chosen, self.ends, invert=True))
            self.active.copy_(self.unfinished.any())
        self.history.index_copy_(1, self.slots.inputs.position.view(1), chosen[:, None])
        self.tokens.copy_(chosen[:, None])

    def run(self, steps: int, unfinished: Tensor, watch: bool) -> Iterator[Tensor | None]:
        """Run up to `steps` steps; yields once for each step that counts.

        Args:
            steps: At most so many.
            unfinished: [batch], which sequences go on.
            watch: Bring each step's tokens to the host and yield them, [batch].
        """
        self.unfinished.copy_(unfinished)
        for step in range(steps):
            self._replay()
            if watch or self.ends is not None:
                self._send(step % 2)
                if step:
                    going, tokens = self._receive((step - 1) % 2)
                    yield tokens
                    if not going:
                        return
            else:
                yield None
        if steps and (watch or self.ends is not None):
            yield self._receive((steps - 1) % 2)[1]

    def _send(self, slot: int) -> None:
        active, tokens = self._pinned[slot]
        active.copy_(self.active, non_blocking=True)
        tokens.copy_(self.tokens.view(-1), non_blocking=True)
        self._events[slot].record()

    def _receive(self, slot: int) -> tuple[bool, Tensor]:
        self._events[slot].synchronize()
        active, tokens = self._pinned[slot]
        return bool(active), tokens.clone()


def is_plain(sampler: Any) -> bool:
    """Whether tokens are chosen by the largest logit alone, until a length or a token ends it."""
    from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

    known = all(type(criterion) in (MaxLengthCriteria, EosTokenCriteria) for criterion in sampler.criteria)
    return known and not (
        len(sampler.processors) or sampler.do_sample or sampler.scores is not None or sampler.logits is not None
    )
