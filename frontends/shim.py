"""A stand-in for the model while it is exported: same class name, same weights, its own `forward`."""

from __future__ import annotations

import inspect
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx import Graph
from torch.utils import _pytree as pytree

from graphwright.frontends.axes import Leaves

Position = tuple[int, int]
Relation = tuple[Position, tuple[Position, ...]]

_CONTAINERS = (dict, list, set, deque)

_FRAME = re.compile(rf' *File "{re.escape(__file__)}", line \d+, in \w+\n(?:    .*\n?)*')


def stand_in(model: torch.nn.Module, names: Sequence[str], relations: Sequence[Relation]) -> torch.nn.Module:
    """An object that shares all of the model's content and states the relations between input sizes.

    Args:
        model: The model; it is not touched.
        names: The arguments of the call in order, which become the whole signature: torch.export mistakes
            arguments that arrive through `**kwargs` otherwise.
        relations: Sizes that are the sum of others, by (leaf, dimension).
    """
    cls = type(model)

    def forward(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        _relate(pytree.tree_leaves((args, kwargs)), relations)
        return model.forward(*args, **kwargs) if instance_forward else cls.forward(self, *args, **kwargs)

    instance_forward = "forward" in vars(model)
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, positional) for name in ("self", *names)]
    )
    shim = type(
        cls.__name__, (cls,), {"forward": forward, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    )
    copy: Any = object.__new__(shim)
    copy.__dict__.update({name: value for name, value in vars(model).items() if name != "forward"})
    return copy


def _relate(leaves: Sequence[Any], relations: Sequence[Relation]) -> None:
    for (leaf, dim), parts in relations:
        torch._check(leaves[leaf].shape[dim] == sum(leaves[i].shape[j] for i, j in parts))


def relations_of(axes: Leaves) -> list[Relation]:
    """What equal and summed names say about the sizes."""
    first: dict[str, Position] = {}
    relations: list[Relation] = []
    positions = [((i, j), axis) for i, leaf in enumerate(axes) for j, axis in leaf.items() if axis.shared]
    for position, axis in positions:
        if "+" not in axis.name and first.setdefault(axis.name, position) != position:
            relations.append((position, (first[axis.name],)))
    for position, axis in positions:
        parts = axis.name.split("+")
        if len(parts) > 1 and all(part in first for part in parts):
            relations.append((position, tuple(first[part] for part in parts)))
    return relations


def strip_frames(graph: Graph) -> None:
    """Remove this file's frames from the stack traces."""
    for node in graph.nodes:
        trace = node.meta.get("stack_trace")
        if trace and __file__ in trace:
            node.meta["stack_trace"] = _FRAME.sub("", trace)


@contextmanager
def untouched(model: torch.nn.Module) -> Iterator[None]:
    """Undo what a run or trace of `forward` does to the modules, their config and buffers, and the random state."""
    containers = _containers(vars(holder) for holder in [*model.modules(), *_configs(model)])
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if not buffer.is_inference()]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for container, content in containers:
                _restore(container, content)
            for buffer, content in buffers:
                buffer.data.copy_(content)  # batch norm changes buffers and leaves their version as it is


def _configs(model: torch.nn.Module) -> Iterator[Any]:
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "__dict__"):
            yield config


def _containers(roots: Iterable[Any]) -> list[tuple[Any, Any]]:
    """The containers that are reachable from these through containers alone, each with a shallow copy."""
    found: dict[int, tuple[Any, Any]] = {}
    waiting = list(roots)
    while waiting:
        container = waiting.pop()
        if isinstance(container, _CONTAINERS) and id(container) not in found:
            content: Any = dict(container) if isinstance(container, dict) else list(container)
            found[id(container)] = (container, content)
            waiting += content.values() if isinstance(content, dict) else content
    return list(found.values())


def _restore(container: Any, content: Any) -> None:
    """Put back the same objects in the same order; a container that still holds them is left alone."""
    if _identities(container) == _identities(content):
        return
    container.clear()
    if isinstance(container, dict):
        for name, value in content.items():
            container[name] = value
    elif isinstance(container, set):
        container.update(content)
    else:
        container.extend(content)


def _identities(container: Any) -> list[Any]:
    """Identity, not equality: tensors cannot be compared as a whole."""
    if isinstance(container, dict):
        return [(name, id(value)) for name, value in container.items()]
    return [id(value) for value in container]
