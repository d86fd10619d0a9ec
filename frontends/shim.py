"""A stand-in for the model while it is exported: same class name, same weights, its own `forward`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx import Graph
from torch.utils import _pytree as pytree

from graphwright.frontends.axes import Leaves

Position = tuple[int, int]
Relation = tuple[Position, tuple[Position, ...]]

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
    """Undo what a traced `forward` assigns to the modules, their config, or the random state."""
    holders = [*model.modules(), *({id(c): c for c in _configs(model)}.values())]
    before = [(holder, _contents(vars(holder))) for holder in holders]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for holder, contents in before:
                _restore(vars(holder), contents)


def _configs(model: torch.nn.Module) -> Iterator[Any]:
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "__dict__"):
            yield config


def _contents(state: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Each attribute, and a shallow copy of it where it is a plain container."""
    return {name: (value, value.copy() if type(value) in (dict, list, set) else None) for name, value in state.items()}


def _restore(state: dict[str, Any], contents: Mapping[str, tuple[Any, Any]]) -> None:
    for name in [name for name in state if name not in contents]:
        del state[name]
    for name, (value, copy) in contents.items():
        if state.get(name, state) is not value:
            state[name] = value
        if copy is not None and value != copy:
            value.clear()
            value.extend(copy) if isinstance(value, list) else value.update(copy)
