"""A stand-in for the vendor's backend of `torch.compile`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch


@pytest.fixture
def stand_in() -> Iterator[list[Any]]:
    """Register `hpu_backend`, which keeps the graphs that it is given and runs them as they are."""
    graphs: list[Any] = []

    def hpu_backend(graph: torch.fx.GraphModule, example: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    registry = torch._dynamo.backends.registry
    registry.register_backend(hpu_backend, name="hpu_backend")
    torch._dynamo.reset()
    yield graphs
    registry._BACKENDS.pop("hpu_backend", None)
    registry._COMPILER_FNS.pop("hpu_backend", None)
    torch._dynamo.reset()
