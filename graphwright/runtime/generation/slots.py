"""Slots: the static memory of decode steps for one batch size and one capacity."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from graphwright.runtime.call import Call
from graphwright.runtime.generation.caches import GrowingCache
from graphwright.runtime.generation.step import StepGraph, StepInputs


def allocate(call: Call, growing: GrowingCache, capacity: int) -> StepInputs:
    """Buffers for a call and its cache, with everything copied in.

    Args:
        call: The call without its cache; masks already have the length of the capacity.
        growing: The cache.
        capacity: Slots of each buffer.
    """
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
        self._buffers = self.tensors[len(inputs.call.tensors) + 1 :][: 2 * len(inputs.own)]

    def run(self) -> Tensor:
        """Run the step on the present contents; writes the new token's keys and values; returns the logits."""
        logits, *updated = self.graph.flat(self.tensors)
        for buffer, tensor in zip(self._buffers, updated, strict=True):
            if tensor is not buffer:
                buffer.copy_(tensor)
        return logits

    def load(self, call: Call, growing: GrowingCache) -> None:
        """Start another generation of the same sizes in this memory."""
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
