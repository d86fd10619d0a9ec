"""CapturedGraph: a lowered call that takes and returns what the original forward did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphwright.ir.program import Program
from graphwright.lowering.eager.target import EagerTarget
from graphwright.passes.pipeline import Pipeline
from graphwright.runtime.caches import store_cache
from graphwright.runtime.call import Call
from graphwright.runtime.capture import Layouts
from graphwright.runtime.padding import ZeroedResults
from graphwright.runtime.sizes import SizeGuard
from graphwright.runtime.structure import rebuild


class CapturedGraph:
    """One captured and lowered call.

    Args:
        program: The captured program, before any pass.
        layouts: What its flat results stand for.
        tensors: The tensors it was captured with.
        pipeline: Passes to run on it.
        target: How to run it.
    """

    def __init__(
        self,
        program: Program,
        layouts: Layouts,
        tensors: Sequence[torch.Tensor],
        pipeline: Pipeline,
        target: EagerTarget,
    ) -> None:
        self.guard = SizeGuard(program, tensors)
        self.layouts = layouts
        self.artifact = target.emit(pipeline.run(program, validate=False).program)
        self.zeroed = ZeroedResults(self.artifact.program)
        self._flat = self.artifact.flat

    def accepts(self, call: Call) -> bool:
        """Whether the sizes of a call (of the right key) are among those the graph is valid for."""
        return self.guard.accepts(call.tensors)

    def results(self, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Flat results, the contents of the caches after the call included."""
        return self._flat(tensors)

    def run(self, call: Call, ahead: Sequence[Any] | None = None) -> Any:
        """Serve a call: fills the caller's caches and returns an object like the original's.

        Args:
            call: The call.
            ahead: Its flat results, if they have been computed.
        """
        left = iter(self._flat(call.tensors) if ahead is None else ahead)
        result = rebuild(self.layouts.result, left, call.caches)
        for cache, layout in zip(call.caches, self.layouts.caches, strict=True):
            store_cache(cache, layout, left)
        return result
