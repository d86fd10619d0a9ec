"""Replay: a function of tensors as a CUDA graph; Batch: where its inputs lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from graphwright.lowering.eager.packed_body import Body


@cache
def side_stream(index: int) -> torch.cuda.Stream:
    """The one stream of a GPU on which calls are recorded: cuBLAS keeps a workspace for every stream it has seen."""
    return torch.cuda.Stream(index)


class Replay:
    """One call, recorded as a CUDA graph. Its results lie where they lay at the recording.

    Args:
        function: What to record; it must read nothing back from the GPU.
        inputs: Inputs, which it will always read from where they lie.
        pool: Memory to share with other recordings, none of which runs while this one does.
    """

    def __init__(self, function: Callable[[Sequence[Tensor]], Any], inputs: Sequence[Tensor], pool: Any) -> None:
        self.graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(False), torch.no_grad():  # so that it serves calls outside of inference mode as well
            self.results = self._record(function, inputs, pool)

    def _record(self, function: Callable[[Sequence[Tensor]], Any], inputs: Sequence[Tensor], pool: Any) -> Any:
        stream = side_stream(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            function(inputs)  # libraries set themselves up at the first call
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self.graph, pool=pool, stream=stream):
            return function(inputs)

    def __call__(self) -> Any:
        """Replay; the next call overwrites what this one returns."""
        self.graph.replay()
        return self.results


class Batch:
    """Inputs of some sizes that stay where they are, and how many tokens of them are computed.

    Args:
        inputs: What to make room for.
        body: Knows which tokens are computed.
        pool: Memory of recordings.
    """

    def __init__(self, inputs: Sequence[Tensor], body: Body, pool: Any) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self.inputs = [tensor.clone() for tensor in inputs]
            self._count = torch.zeros([], dtype=torch.int64, pin_memory=inputs[0].is_cuda)
        self._body = body
        self._positions = body.positions(inputs)
        self._counting = Replay(self._write_count, self.inputs, pool) if body.has_plan else None

    def _write_count(self, inputs: Sequence[Tensor]) -> None:
        self._count.copy_(self._body.count(inputs), non_blocking=True)

    def load(self, inputs: Sequence[Tensor]) -> None:
        """Take over the contents of other inputs, and begin to count their tokens."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        if self._counting is not None:
            self._counting()

    def size(self) -> int:
        """The number of tokens to compute for what was loaded last; see `Body.rounded`."""
        if self._counting is None:
            return 0
        torch.cuda.current_stream().synchronize()
        return self._body.rounded(int(self._count), self._positions)
