"""The `torch.compile` backend: graphs that Dynamo captured go through the same passes.

    torch.compile(model, backend="graphwright")
    torch.compile(model, backend="graphwright", options={"pipeline": "canonicalize,fuse-attention,fuse-norm"})

Each graph is served as `optimize` serves a model: the first call runs Dynamo's graph, captures it, runs the passes and
compares; later calls run the result, with gradients where autograd records.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from graphwright.runtime.optimize import optimize

Compiled = Callable[..., Any]


def graphwright(
    graph_module: GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Compiled:
    """Compile one graph of Dynamo's.

    Args:
        graph_module: The graph; weights are among its inputs.
        example_inputs: Not needed: the graph is captured at its first call.
        mode: Modes of other backends mean nothing here.
        options: `{"pipeline": ...}`, by default the pipeline of `optimize`.

    Raises:
        ValueError: There is an unknown mode or option.
    """
    unknown = set(options or ()) - {"pipeline"}
    if mode not in (None, "default") or unknown:
        what = f"the mode '{mode}'" if mode not in (None, "default") else f"the option {sorted(unknown)[0]!r}"
        raise ValueError(f"the backend 'graphwright' has not {what}; it takes options={{'pipeline': ...}}")
    return LiftedGraph(graph_module, (options or {}).get("pipeline"))


class LiftedGraph:
    """A graph of Dynamo's as a callable on all its inputs.

    Args:
        graph_module: The graph.
        pipeline: Passes to run, None for the default.

    Attributes:
        served: The optimised module, None before the first call.
        sizes: Inputs that are sizes, and where these are read off.
        numbers: Inputs that hold a Python number; a graph is made for each value.
    """

    def __init__(self, graph_module: GraphModule, pipeline: Any) -> None:
        self.graph_module, self.pipeline = graph_module, pipeline
        self.nodes = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
        self.sizes = _sizes(self.nodes)
        self.numbers = {i for i, node in enumerate(self.nodes) if any(user.target == "item" for user in node.users)}
        self.served: nn.Module | None = None
        self._weights: dict[int, Tensor] = {}
        self._inputs: list[int] = []

    def __call__(self, *args: Any) -> Any:
        """Run on the inputs of the graph, weights and sizes included."""
        if self.sizes is None:  # a number that no input's size gives
            return self.graph_module(*args)
        if self.served is None:
            self.served = self._module(args)
        if any(args[i] is not weight for i, weight in self._weights.items()):  # the weights of another module
            return self.graph_module(*args)
        return self.served(*(float(args[i]) if i in self.numbers else args[i] for i in self._inputs))

    def _module(self, args: Sequence[Any]) -> nn.Module:
        """The graph as a module that owns its weights and takes only what changes."""
        self._weights = {i: args[i] for i, node in enumerate(self.nodes) if _is_weight(node, args[i])}
        self._inputs = [i for i in range(len(args)) if i not in self._weights and i not in (self.sizes or {})]
        module_class = type("Graph", (_Graph,), {"forward": _forward([self.nodes[i].name for i in self._inputs])})
        module = module_class(self)
        for i, weight in self._weights.items():
            if isinstance(weight, nn.Parameter):
                module.register_parameter(self.nodes[i].name, weight)
            else:
                module.register_buffer(self.nodes[i].name, weight)
        return optimize(module, pipeline=self.pipeline)

    def run(self, module: nn.Module, inputs: Sequence[Any]) -> Any:
        """Dynamo's graph on the module's weights and these inputs."""
        given = dict(zip(self._inputs, inputs, strict=True))
        given |= {i: torch.tensor(given[i], dtype=torch.float64) for i in self.numbers}
        args: list[Any] = [
            getattr(module, node.name) if i in self._weights else given.get(i) for i, node in enumerate(self.nodes)
        ]
        for i, (source, dim) in (self.sizes or {}).items():
            args[i] = args[source].shape[dim]
        return self.graph_module.forward(*args)


class _Graph(nn.Module):
    """A graph with its weights; `forward` is made for each."""

    def __init__(self, lifted: LiftedGraph) -> None:
        super().__init__()
        object.__setattr__(self, "lifted", lifted)


def _forward(names: Sequence[str]) -> Callable[..., Any]:
    """A `forward` with parameters of these names."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        values = [*args, *(kwargs[name] for name in names[len(args) :])]
        return self.lifted.run(self, values)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("self", *names)]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return forward


def _is_weight(node: Node, value: Any) -> bool:
    """Whether an input belongs to the module that is compiled."""
    return isinstance(value, nn.Parameter) or (isinstance(value, Tensor) and "_buffers_" in node.name)


def _sizes(nodes: Sequence[Node]) -> dict[int, tuple[int, int]] | None:
    """For each input that is a size: the input and the dimension that have it; None if there is none for one."""
    found: dict[str, tuple[int, int]] = {}
    numbers: dict[int, str] = {}
    for i, node in enumerate(nodes):
        value = node.meta.get("example_value")
        if isinstance(value, Tensor):
            for dim, size in enumerate(value.shape):
                found.setdefault(str(size), (i, dim))
        elif isinstance(value, torch.SymInt):
            numbers[i] = str(value)
    if any(symbol not in found for symbol in numbers.values()):
        return None
    return {i: found[symbol] for i, symbol in numbers.items()}
