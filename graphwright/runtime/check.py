"""The check that every captured graph must pass before it serves a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from graphwright.runtime.call import Call
from graphwright.runtime.capture import Layouts, take_apart
from graphwright.runtime.compare import first_difference
from graphwright.runtime.graph import CapturedGraph
from graphwright.runtime.variants import variants

_ATTEMPTS = 8


class Mismatch(Exception):
    """A captured graph computes something else than the original; the message says what."""


@dataclass
class RandomState:
    """State of the random number generators, so that dropout can be repeated."""

    cpu: Tensor
    devices: list[Tensor]

    @staticmethod
    def now() -> RandomState:
        """The current state."""
        devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return RandomState(torch.get_rng_state(), devices)

    def restore(self) -> None:
        """Go back to this state."""
        torch.set_rng_state(self.cpu)
        if self.devices:
            torch.cuda.set_rng_state_all(self.devices)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Inside, random numbers repeat from this state; afterwards they go on as if nothing had happened."""
        present = RandomState.now()
        self.restore()
        try:
            yield
        finally:
            present.restore()


class Checker:
    """Compares a graph with the original forward.

    Args:
        original: Calls the original forward with keyword arguments.
        call: The call that the graph was captured for.
        random: Random state to use for both.
        parameters: Weights whose gradients are compared where autograd is on.
        narrow: What the graph may compute products of float32 in, None for float32.
    """

    def __init__(
        self,
        original: Callable[..., Any],
        call: Call,
        random: RandomState,
        parameters: Sequence[Tensor],
        narrow: torch.dtype | None = None,
    ) -> None:
        self.original, self.call, self.random, self.parameters = original, call, random, parameters
        self.narrow = narrow

    def check(self, graph: CapturedGraph, expected: Sequence[Tensor], layouts: Layouts) -> None:
        """Compare on the call itself and on inputs of other sizes; sizes that no input varies become fixed.

        Raises:
            Mismatch: Says where and by how much the results differ.
        """
        if layouts != graph.layouts:
            raise Mismatch("the result has another structure")
        self._compare(graph, self.call.tensors, expected, "on the inputs of the call")
        unseen = set(graph.guard.symbols)
        checked = self.call.tensors
        for varied, tensors in islice(variants(graph, self.call), _ATTEMPTS):
            if varied & unseen and self._agrees(graph, tensors):
                unseen -= varied
                checked = tensors
            if not unseen:
                break
        graph.guard.pin(unseen)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in expected):
            self._check_gradients(graph, checked)

    def _agrees(self, graph: CapturedGraph, tensors: list[Tensor]) -> bool:
        """Compare on other inputs; False if the original rejects them."""
        try:
            with self.random.replayed(), torch.no_grad():
                expected, layouts = self._run_original(tensors)
        except Exception:
            return False
        if layouts != graph.layouts:
            return False
        with torch.no_grad():
            self._compare(graph, tensors, expected, f"on inputs of sizes {[tuple(t.shape) for t in tensors]}")
        return True

    def _run_original(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], Layouts]:
        arguments, caches = self.call.arguments(tensors)
        return take_apart(self.original(**arguments), caches)

    def _compare(self, graph: CapturedGraph, tensors: Sequence[Tensor], expected: Sequence[Tensor], what: str) -> None:
        with self.random.replayed():
            actual = graph.results(tensors)
        text = first_difference(graph.zeroed(expected, tensors), actual, self.narrow)
        if text:
            raise Mismatch(f"{text} {what}")

    def _check_gradients(self, graph: CapturedGraph, tensors: Sequence[Tensor]) -> None:
        sources = [*self.parameters, *(tensor for tensor in tensors if tensor.requires_grad)]
        with self.random.replayed():
            expected = _gradients(graph.zeroed(self._run_original(tensors)[0], tensors), sources)
        with self.random.replayed():
            actual = _gradients(graph.results(tensors), sources)
        text = first_difference(expected, actual)
        if text:
            raise Mismatch(f"gradient {text}")


def _gradients(results: Sequence[Any], sources: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of a fixed weighted sum of all results; zero where there is none."""
    terms = [_weighted_sum(result) for result in results if isinstance(result, Tensor) and result.requires_grad]
    if not terms or not sources:
        return []
    found = torch.autograd.grad(sum(terms), sources, allow_unused=True)  # type: ignore[arg-type]
    pairs = zip(found, sources, strict=True)
    return [torch.zeros_like(source) if gradient is None else gradient for gradient, source in pairs]


def _weighted_sum(tensor: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, tensor.numel(), dtype=tensor.dtype, device=tensor.device)
    return (tensor * weights.view(tensor.shape)).sum()
