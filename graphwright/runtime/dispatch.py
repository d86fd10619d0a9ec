"""Dispatcher: serves calls of one model with captured graphs, or hands them to the original forward."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as nn_module

from graphwright.ir.errors import GraphwrightError, PassError
from graphwright.ir.program import Program
from graphwright.lowering.eager.narrow import narrow_dtype
from graphwright.lowering.eager.target import EagerTarget
from graphwright.passes.pipeline import Pipeline
from graphwright.runtime.caches import Unservable
from graphwright.runtime.call import Call, Parameters
from graphwright.runtime.capture import Forward, Layouts, capture_call, take_apart
from graphwright.runtime.check import Checker, Mismatch, RandomState
from graphwright.runtime.graph import CapturedGraph
from graphwright.runtime.state import ModelState

logger = logging.getLogger("graphwright")

SAFER = (Pipeline("canonicalize"), Pipeline([]))
DEFAULT_TARGET = EagerTarget(fold="views")
_UNSERVED = ("output_attentions",)


class StateGraphs:
    """The graphs captured for one state of the model."""

    def __init__(self, model: nn.Module) -> None:
        self.state = ModelState(model)
        self.graphs: dict[Hashable, list[CapturedGraph]] = {}
        self.steps: dict[Hashable, list[Any]] = {}  # of graphwright.runtime.generation
        self.refused: set[Hashable] = set()


Ahead = tuple[StateGraphs, CapturedGraph, tuple[Any, ...]]


class Dispatcher:
    """Serves the calls of one model.

    Args:
        forward: The original forward; its first argument is the model.
        name: Name of the model's class, for messages.
        pipeline: Passes to run on each captured call.
        target: How graphs run.
        max_graphs: Number of captures after which new kinds of calls go to the original.
        max_states: Number of states of the model to keep graphs for (train and eval mode are two).

    Attributes:
        captures: Number of captures so far, failed ones included.
        served: Number of calls that graphs have served.
        reasons: Why calls went to the original forward.
    """

    def __init__(
        self,
        forward: Forward,
        name: str,
        pipeline: Pipeline,
        target: EagerTarget = DEFAULT_TARGET,
        *,
        max_graphs: int = 32,
        max_states: int = 6,
    ) -> None:
        self.forward, self.name, self.pipeline, self.target = forward, name, pipeline, target
        self.max_graphs, self.max_states = max_graphs, max_states
        self.parameters = Parameters(forward)
        self.captures = 0
        self.served = 0
        self.reasons: list[str] = []
        self._states: list[StateGraphs] = []
        self._changes: Counter[Hashable] = Counter()
        self._lock = threading.RLock()

    def __call__(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Serve one call of `model`."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self.forward(model, *args, **kwargs)
        try:
            check_surroundings()
            arguments = self.parameters.bind(args, kwargs)
            call = Call(arguments)
            key = (call.key, torch.is_grad_enabled())
            ahead = self._ahead(call, key)
            states = self.states(model)
            self.refuse(model, arguments, states)
            if not call.tensors:
                raise Unservable("no argument is a tensor")
        except Unservable as reason:
            self.say(str(reason))
            return self.forward(model, *args, **kwargs)
        if ahead is not None and ahead[0] is states:
            self.served += 1
            return ahead[1].run(call, ahead[2])
        for graph in states.graphs.get(key, ()):
            if graph.accepts(call):
                self.served += 1
                return graph.run(call)
        with self._lock:
            return self._learn(model, call, key, arguments, states)

    def _ahead(self, call: Call, key: Hashable) -> Ahead | None:
        """A graph that serves this call if the model is still as it was at the last one, and its results.

        The GPU computes them while the host finds that out; if it is not, they are forgotten.
        """
        for states in self._states[:1]:
            for graph in states.graphs.get(key, ()):
                if graph.accepts(call):
                    results = graph.artifact.ahead(call.tensors)
                    return None if results is None else (states, graph, results)
        return None

    def states(self, model: nn.Module) -> StateGraphs:
        """The graphs for the state the model is in; the most recently used state comes first."""
        for i, states in enumerate(self._states):
            if states.state.holds():
                if i:
                    self._states.insert(0, self._states.pop(i))
                return states
        self._states.insert(0, StateGraphs(model))
        del self._states[self.max_states :]
        return self._states[0]

    def refuse(self, model: nn.Module, arguments: Mapping[str, Any], states: StateGraphs) -> None:
        """Refuse what no graph can serve.

        Raises:
            Unservable: The model's state, or an argument, is such a thing.
        """
        reason = self.parameters.refusal or states.state.refusal
        for name in _UNSERVED:
            config = getattr(model, "config", None)
            if arguments.get(name, getattr(config, name, False)):
                reason = f"{name} is on"
        if reason:
            raise Unservable(reason)

    def _learn(
        self, model: nn.Module, call: Call, key: Hashable, arguments: Mapping[str, Any], states: StateGraphs
    ) -> Any:
        """Run the original, and capture a graph for later calls like this one."""
        ones = tuple(size == 1 for tensor in call.tensors for size in tensor.shape)
        kind = (key, ones)
        if kind in states.refused or self._changes[kind, model.training] > 1:
            return self.forward(model, **arguments)
        if self.captures >= self.max_graphs:
            self.say(f"{self.captures} graphs have been captured and this call needs another one")
            return self.forward(model, **arguments)
        random, versions, inputs = RandomState.now(), states.state.versions(), _versions(call)
        result = self.forward(model, **arguments)
        try:
            if not states.state.holds() or versions != states.state.versions():
                self._changes[kind, model.training] += 1  # once is common: models set things up at the first call
                raise Unservable("its forward changes the model")
            if inputs != _versions(call):
                raise Unservable("its forward writes to its inputs")
            expected, layouts = take_apart(result, call.caches)
        except Unservable as reason:
            self.say(str(reason))
            return result
        graph = self._capture(model, call, random, states, (expected, layouts))
        if graph is None:
            states.refused.add(kind)
        else:
            states.graphs.setdefault(key, []).append(graph)
        return result

    def _capture(
        self,
        model: nn.Module,
        call: Call,
        random: RandomState,
        states: StateGraphs,
        expected: tuple[list[torch.Tensor], Layouts],
    ) -> CapturedGraph | None:
        """A graph that was found to compute what the original does; None, with a sentence, if there is none."""

        def original(**arguments: Any) -> Any:
            return self.forward(model, **arguments)

        self.captures += 1
        checker = Checker(original, call, random, states.state.parameters(), narrow_dtype(self.target.dtype))
        try:
            program, layouts = capture_call(model, self.forward, call)
            return self._lowered(program, layouts, call, lambda graph: checker.check(graph, *expected))
        except (Unservable, Mismatch, GraphwrightError) as reason:
            self.say(one_line(reason))
        except Exception as error:  # torch.export and the passes may raise anything; the original still works
            self.say(f"capturing it failed with {type(error).__name__}: {one_line(error)}")
        return None

    def _lowered(
        self, program: Program, layouts: Layouts, call: Call, check: Callable[[CapturedGraph], None]
    ) -> CapturedGraph:
        """The graph of a captured call after all passes; if one fails or changes a result, after fewer of them."""
        for pipeline in (self.pipeline, *SAFER):
            try:
                graph = CapturedGraph(program, layouts, call.tensors, pipeline, self.target)
                check(graph)
                return graph
            except (Mismatch, PassError) as reason:
                failure = reason
                logger.info("%s: a call is served without the pipeline '%s': %s", self.name, pipeline, reason)
        raise failure

    def say(self, reason: str) -> None:
        """Log one sentence, once."""
        if reason not in self.reasons:
            self.reasons.append(reason)
            logger.warning("%s runs its original forward for a call because %s.", self.name, reason.rstrip("."))


def check_surroundings() -> None:
    """Refuse where something is switched on that changes what operators or modules do."""
    if torch._C._is_any_autocast_enabled():
        raise Unservable("autocast is on")
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise Unservable("a function transform is active")
    if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
        raise Unservable("a dispatch mode is active")
    if nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks:
        raise Unservable("there are global module hooks")


def _versions(call: Call) -> list[int]:
    """Version counters of the inputs: they go up when an input is written to."""
    return [tensor._version for tensor in call.tensors if not tensor.is_inference()]


def one_line(error: Exception) -> str:
    """What an error says, in one line."""
    text = f"{error.what} ({error.why})" if isinstance(error, GraphwrightError) and error.why else str(error)
    return " ".join(text.split())[:300]
