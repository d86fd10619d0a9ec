"""Graph modules that generate their Python code when they are first run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch.fx import GraphModule


@contextmanager
def code_when_run() -> Iterator[None]:
    """Let graph modules that are made or changed put off their code until somebody calls them.

    torch.export compiles the code of a model ten times and more, once for each of its passes, and runs none of it.
    """
    recompile = GraphModule.recompile

    def forward(module: GraphModule, *args: Any, **kwargs: Any) -> Any:
        recompile(module)
        return module.forward(*args, **kwargs)

    def mark(module: GraphModule) -> None:
        layout = getattr(module.graph._codegen, "pytree_info", None)
        if layout is not None:
            module._in_spec, module._out_spec = layout.in_spec, layout.out_spec
        type(module).forward = forward  # type: ignore[method-assign]

    with patch.object(GraphModule, "recompile", mark):
        yield
