"""Replay: a function of static tensors as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from graphwright.lowering.eager.replay import side_stream


class Replay:
    """A function recorded as a CUDA graph; calling it replays the graph and returns the recorded results.

    The results lie where they lay at the recording: the next call overwrites them.

    Args:
        function: What to record. It reads and writes tensors that stay where they are.
        warm_up: What to run before, twice, so that libraries set themselves up; leaves no trace, or one that the
            first replay removes.
    """

    def __init__(self, function: Callable[[], Any], warm_up: Callable[[], Any]) -> None:
        stream = side_stream(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                warm_up()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream):
            self.results = function()

    def __call__(self) -> Any:
        """Replay."""
        self.graph.replay()
        return self.results
