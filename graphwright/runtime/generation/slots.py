"""Slots: the static memory of decode steps for one batch size and one capacity."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from graphwright.runtime.call import Call
from graphwright.runtime.generation.caches import GrowingCache
from graphwright.runtime.generation.replay import Replay
from graphwright.runtime.generation.step import StepGraph, StepInputs

POSITIONS = ("position_ids", "decoder_position_ids")


def allocate(call: Call, growing: GrowingCache, capacity: int) -> StepInputs:
    """Buffers for a call and its cache, with everything copied in.

    Args:
        call: The call without its cache; masks already have the length of the capacity.
        growing: The cache.
        capacity: Slots of each buffer.
    """
    with torch.inference_mode(False), torch.no_grad():  # so that they can be used outside of inference mode as well
        own = []
        for layer in growing.own:
            shapes = [(*tensor.shape[:2], capacity, tensor.shape[3]) for tensor in (layer.keys, layer.values)]
            own.append((layer.keys.new_zeros(shapes[0]), layer.values.new_zeros(shapes[1])))
        growing.fill(own)
        cross = [(layer.keys.clone(), layer.values.clone()) for layer in growing.cross or ()]
        position = torch.full((), growing.length, device=own[0][0].device)
        call.tensors = [tensor.clone() for tensor in call.tensors]
        return StepInputs(call, position, own, cross, growing.windows, growing.cross is not None)


class Slots:
    """Inputs that stay where they are in memory, and the step that runs on them.

    Args:
        graph: The step.
        inputs: The inputs; kept.
        states: The state of the model that the graph belongs to.
        shapes: What the slots can be reused for.
    """

    def __init__(self, graph: StepGraph, inputs: StepInputs, states: object, shapes: Hashable) -> None:
        self.graph, self.inputs, self.states, self.shapes = graph, inputs, states, shapes
        self.tensors = inputs.tensors
        names = [name for name in POSITIONS if name in inputs.call.names]
        self.advancing = [inputs.position, *(inputs.call.tensor(name) for name in names)]
        self.greedy: dict[Hashable, Any] = {}  # of graphwright.runtime.generation.greedy
        self._replay: Replay | None = None
        self._token = graph.token()
        self._buffers = self.tensors[len(inputs.call.tensors) + 1 :][: 2 * len(inputs.own)]

    def run(self) -> Tensor:
        """Run the step on the present contents and advance; returns the logits, which the next run overwrites."""
        if not self.tensors[0].is_cuda:
            return self.step()
        if self._replay is None:
            self._replay = Replay(self.step, self.warm_up)
        logits: Tensor = self._replay()
        return logits

    def refresh(self) -> None:
        """Forget recordings if a weight has moved or was written to since."""
        token = self.graph.token()
        if token != self._token:
            self._token, self._replay = token, None
            self.greedy.clear()

    def step(self) -> Tensor:
        """Compute the logits, write the new token's keys and values, and move positions on by one."""
        logits = self.warm_up()
        for tensor in self.advancing:
            tensor.add_(1)
        return logits

    def warm_up(self) -> Tensor:
        """A step that can be taken again: positions stay."""
        logits, *updated = self.graph.flat(self.tensors)
        for buffer, tensor in zip(self._buffers, updated, strict=True):
            if tensor is not buffer:
                buffer.copy_(tensor)
        return logits

    def load(self, call: Call, growing: GrowingCache) -> None:
        """Start another generation of the same sizes in this memory."""
        self.refresh()
        for tensor, new in zip(self.inputs.call.tensors, call.tensors, strict=True):
            tensor.copy_(new)
        growing.fill(self.inputs.own)
        for pair, layer in zip(self.inputs.cross, growing.cross or (), strict=True):
            pair[0].copy_(layer.keys)
            pair[1].copy_(layer.values)
        self.inputs.position.fill_(growing.length)

    def reorder(self, rows: Tensor, length: int) -> None:
        """Put row `rows[i]` of every cache into row `i`."""
        for buffer in self._buffers:
            used = buffer[:, :, :length]
            used.copy_(used.index_select(0, rows))
        for tensor in (tensor for pair in self.inputs.cross for tensor in pair):
            tensor.copy_(tensor.index_select(0, rows))


def shapes_of(tensors: Sequence[Tensor]) -> tuple[torch.Size, ...]:
    """What slots are kept by."""
    return tuple(tensor.shape for tensor in tensors)
