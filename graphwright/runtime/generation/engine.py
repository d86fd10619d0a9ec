"""Engine: finds or captures the step graph for a generation, and checks it against the original forward."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphwright.ir.errors import GraphwrightError
from graphwright.lowering.eager.narrow import narrow_dtype
from graphwright.runtime.caches import Unservable
from graphwright.runtime.call import Call
from graphwright.runtime.compare import difference
from graphwright.runtime.dispatch import SAFER, Dispatcher, StateGraphs, check_surroundings, one_line
from graphwright.runtime.generation.caches import GrowingCache
from graphwright.runtime.generation.prefill import Prefill
from graphwright.runtime.generation.slots import Slots, allocate, shapes_of
from graphwright.runtime.generation.step import StepGraph, StepInputs

logger = logging.getLogger("graphwright")
_KEPT = 4


class Engine:
    """Serves the decode steps of one model.

    Args:
        dispatcher: Serves its other calls; knows the model's states and counts captures.

    Attributes:
        prefill: Serves prompts.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self.prefill = Prefill(dispatcher)
        self._idle: list[Slots] = []

    def bind(self, model: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of a step by name.

        Raises:
            Unservable: Something is switched on that no graph respects.
        """
        check_surroundings()
        if torch.is_grad_enabled():
            raise Unservable("gradients are recorded while it generates")
        self.dispatcher.refuse(model, arguments, self.dispatcher.states(model))
        return self.dispatcher.parameters.bind((), arguments)

    def slots(
        self, model: nn.Module, call: Call, given: Mapping[str, Any], growing: GrowingCache, capacity: int
    ) -> Slots:
        """Static memory with a call and its cache copied in, and a graph that was checked on it.

        Args:
            model: The optimised model.
            call: The call without its cache, masks as long as the capacity.
            given: The same with masks as the original forward takes them.
            growing: The cache.
            capacity: Slots of the buffers.

        Raises:
            Unservable: No graph computes what the original does.
        """
        states = self.dispatcher.states(model)
        inputs = allocate(call, growing, capacity)
        for slots in [slots for slots in self._idle if slots.states is not states]:
            self._idle.remove(slots)
        shapes = (inputs.key, shapes_of(inputs.tensors))
        for slots in self._idle:
            if slots.shapes == shapes:
                self._idle.remove(slots)
                slots.load(call, growing)
                return slots
        graph = self._graph(model, inputs, given, growing, states)
        return Slots(graph, inputs, states, shapes)

    def keep(self, slots: Slots) -> None:
        """Take back slots for a later generation of the same sizes."""
        self._idle.insert(0, slots)
        del self._idle[_KEPT:]

    def _graph(
        self,
        model: nn.Module,
        inputs: StepInputs,
        given: Mapping[str, Any],
        growing: GrowingCache,
        states: StateGraphs,
    ) -> StepGraph:
        kind = (inputs.key, inputs.own[0][0].shape[0] == 1)
        if kind in states.refused:
            raise Unservable("no graph of its decode step could be made")
        for graph in states.steps.get(kind, ()):
            if graph.accepts(inputs):
                return graph
        try:
            graph = self._capture(model, inputs, given, growing)
        except Unservable:
            states.refused.add(kind)
            raise
        states.steps.setdefault(kind, []).append(graph)
        return graph

    def _capture(
        self, model: nn.Module, inputs: StepInputs, given: Mapping[str, Any], growing: GrowingCache
    ) -> StepGraph:
        """A graph that gives the original's logits, made without our kernels and with fewer passes if need be."""
        if self.dispatcher.captures >= self.dispatcher.max_graphs:
            raise Unservable(f"{self.dispatcher.captures} graphs have been captured and its step needs another one")
        self.dispatcher.captures += 1
        forward = self.dispatcher.forward
        cache = growing.copy()
        with torch.no_grad():
            expected = forward(model, **given, past_key_values=cache).logits
        failure = ""
        chosen, target = self.dispatcher.pipeline, self.dispatcher.target
        attempts = [(chosen, True)] * inputs.position.is_cuda + [(pipeline, False) for pipeline in (chosen, *SAFER)]
        for pipeline, kernels in attempts:
            try:
                graph = StepGraph(model, forward, inputs, pipeline, target, kernels)
                failure = difference(expected, _try(graph, inputs), narrow_dtype(target.dtype)) or ""
            except GraphwrightError as error:
                failure = one_line(error)
            except Unservable:
                raise
            except Exception as error:  # torch.export and the passes may raise anything; the original still works
                failure = f"{type(error).__name__}: {one_line(error)}"
            if not failure:
                return graph
            logger.info("%s: a step is served without %s: %s", self.dispatcher.name, pipeline, failure)
        raise Unservable(f"its decode step {failure}")


def _try(graph: StepGraph, inputs: StepInputs) -> Tensor:
    """The logits of a step; what it writes to the buffers is written again by the next run."""
    return graph.flat(inputs.tensors)[0]
