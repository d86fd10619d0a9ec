"""Layers that repeat are traced twice; the others of their kind are copied from what was traced.

A model is mostly a list of layers that differ in their weights alone, and torch.export takes nearly all of its time to
trace them one by one. While `repeats_copied` is in force, a layer that is alike the ones before it (see
`graphwright.frontends.alike`) and is called in the same way is not run: the nodes that the second layer of its kind
added are added once more, for its weights and its part of the cache.

That this is the same is checked, not assumed: the nodes of the first two layers of a kind must be equal one by one,
must read nothing but arguments and weights, and the call must change nothing but its part of a cache. Otherwise all
layers of the kind are traced.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch.fx import Node, Proxy
from torch.fx.experimental.proxy_tensor import (
    disable_proxy_modes_tracing,
    get_proxy_mode,
    get_proxy_slot,
    track_tensor_tree,
)
from torch.utils import _pytree as pytree

from graphwright.frontends.alike import kind_of
from graphwright.frontends.layer_call import LayerCall, Unknown, plain_results, type_of
from graphwright.frontends.segment import Segment, added_since, last_node

logger = logging.getLogger("graphwright")


@dataclass
class Traced:
    """A call that was traced."""

    call: LayerCall
    segment: Segment
    returned: Any
    results: list[tuple[Any, Any]]
    stack: tuple[tuple[str, Any], ...]

    def is_like(self, other: Traced) -> bool:
        """Whether both did the same."""
        same = list(plain_results(self.results)) == list(plain_results(other.results))
        spec = pytree.tree_structure(self.returned) == pytree.tree_structure(other.returned)
        return same and spec and self.segment.is_like(other.segment)


@dataclass
class Kind:
    """Layers that are alike."""

    layers: int = 0
    calls: int = 0
    once: list[Traced] = field(default_factory=list)
    twice: list[Traced] = field(default_factory=list)
    refused: str = ""

    def may_repeat(self) -> bool:
        """Whether a call, which is counted, may be one of many: a layer may also be called again."""
        self.calls += 1
        return not self.refused and (self.layers > 2 or self.calls > 1)


@dataclass
class Copies:
    """How many layers were copied."""

    layers: int = 0


class Repeats:
    """Traces or copies each call of a layer.

    Args:
        model: Its lists of layers are looked at.
        copied: What was copied is counted here.
    """

    def __init__(self, model: torch.nn.Module, copied: Copies) -> None:
        self.copied = copied
        self._kinds: dict[Hashable, Kind] = {}
        self._layers: dict[int, tuple[torch.nn.Module, int, Kind]] = {}
        self._running: set[int] = set()
        lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
        for items in lists:
            for i, layer in enumerate(items):
                if (key := kind_of(layer, i, len(items))) is not None:
                    kind = self._kinds.setdefault(key, Kind())
                    kind.layers += 1
                    self._layers.setdefault(id(vars(layer)), (layer, i, kind))

    def classes(self) -> set[type[torch.nn.Module]]:
        """The classes of the layers."""
        return {type(layer) for layer, _, _ in self._layers.values()}

    def kinds(self) -> list[Kind]:
        """All kinds of layers."""
        return list(self._kinds.values())

    def run(self, original: Callable[..., Any], layer: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        """The result of a call; `original` is the `forward` of the layer's class."""
        mode, known = get_proxy_mode(), self._layers.get(id(vars(layer)))
        if mode is None or known is None or id(vars(layer)) in self._running or not known[2].may_repeat():
            return original(layer, *args, **kwargs)
        self._running.add(id(vars(layer)))
        try:
            return self._trace_or_copy(mode.tracer, functools.partial(original, layer, *args, **kwargs), known)
        finally:
            self._running.discard(id(vars(layer)))

    def _trace_or_copy(self, tracer: Any, run: functools.partial[Any], known: tuple[torch.nn.Module, int, Kind]) -> Any:
        layer, index, kind = known
        try:
            call = LayerCall(layer, index, run.args[1:], run.keywords)
            inputs = _nodes(tracer, call.tensors)
        except Unknown as error:
            kind.refused = str(error)
            return run()
        template = _find(kind.twice, call, tracer)
        if template is not None:
            self.copied.layers += 1
            return _copy(template, call, inputs)
        last = last_node(tracer.graph)
        returned = run()
        try:
            traced = _traced(tracer, call, inputs, last, returned)
        except Unknown as error:
            kind.refused = str(error)
            return returned
        first = _find(kind.once, call, tracer)
        if first is None:
            kind.once.append(traced)
        elif traced.is_like(first):
            kind.twice.append(traced)
        else:
            kind.refused = "two layers differ"
        return returned


def _find(among: list[Traced], call: LayerCall, tracer: Any) -> Traced | None:
    same = (one for one in among if one.segment.tracer is tracer and one.call.signature == call.signature)
    return next(same, None)


def _nodes(tracer: Any, tensors: list[torch.Tensor]) -> tuple[Node, ...]:
    nodes = [get_proxy_slot(tensor, tracer, None, lambda slot: slot.proxy.node) for tensor in tensors]
    if None in nodes:
        raise Unknown("it reads a tensor that is not traced")
    return tuple(node for node in nodes if node is not None)


def _traced(tracer: Any, call: LayerCall, inputs: tuple[Node, ...], last: Node, returned: Any) -> Traced:
    results = call.results(returned)
    tensors = [value for _, value in results if isinstance(value, torch.Tensor)]
    if any(type_of(_fresh(tensor)) != type_of(tensor) for tensor in tensors):
        raise Unknown("it returns a tensor of an unusual layout")
    segment = Segment(tracer, inputs, added_since(tracer.graph, last), _nodes(tracer, tensors + call.tensors))
    if not segment.is_closed():
        raise Unknown("it reads more than its arguments and weights")
    return Traced(call, segment, returned, results, tuple(tracer.module_stack.items()))


def _fresh(tensor: torch.Tensor) -> torch.Tensor:
    """Another tensor of the same type, of which nothing is recorded."""
    with torch._C.DisableTorchFunction(), disable_proxy_modes_tracing():
        copy = tensor.clone()
        return copy if type_of(copy) == type_of(tensor) else torch.ops.aten.alias(tensor)


def _copy(template: Traced, call: LayerCall, inputs: tuple[Node, ...]) -> Any:
    """Add the template's nodes for another call; returns what the call returns."""
    tracer = template.segment.tracer
    nodes = iter(template.segment.copy(inputs, _Paths(tracer, template.stack)))
    made: dict[int, torch.Tensor] = {id(old): new for old, new in zip(template.call.tensors, call.tensors, strict=True)}
    returned = []
    for place, value in template.results:
        if isinstance(value, torch.Tensor):
            node = next(nodes)
            if id(value) not in made:
                made[id(value)] = _fresh(value)
                _track(tracer, made[id(value)], node)
            value = made[id(value)]
        if place is None:
            returned.append(value)
        else:
            call.slots[place[0]].store(place[1], value)
    for tensor, before, after in zip(call.tensors, inputs, nodes, strict=True):
        if after is not before:  # it was written, or cast to the type it has
            _track(tracer, tensor, after)
    return pytree.tree_unflatten(returned, pytree.tree_structure(template.returned))


def _track(tracer: Any, tensor: torch.Tensor, node: Node) -> None:
    """Let `node` stand for the tensor from now on."""
    track_tensor_tree(tensor, Proxy(node, tracer), constant=None, tracer=tracer)


class _Paths:
    """Moves the paths of a node from the template's layer to the one that is being called.

    Args:
        tracer: Its module stack leads to the layer that is being called.
        old: The stack that led to the template's layer.
    """

    def __init__(self, tracer: Any, old: tuple[tuple[str, Any], ...]) -> None:
        self.tracer, self.depth, self.old = tracer, len(old), old[-1][1][0]
        self.outer = {key: (path, _class_name(cls)) for key, (path, cls) in tracer.module_stack.items()}
        self.new = next(reversed(self.outer.values()))[0]
        self.keys: dict[str, str] = {}

    def __call__(self, node: Node) -> None:
        inner = list(node.meta["nn_module_stack"].items())[self.depth :]
        moved = {self._key(key, path): (self._path(path), cls) for key, (path, cls) in inner}
        node.meta["nn_module_stack"] = self.outer | moved

    def _path(self, path: str) -> str:
        return self.new + path.removeprefix(self.old) if path.startswith(f"{self.old}.") else path

    def _key(self, key: str, path: str) -> str:
        """The key of a further call of this module: torch counts them."""
        if key not in self.keys:
            count = self.tracer.num_calls.get(self._path(path), 0)
            self.tracer.num_calls[self._path(path)] = count + 1
            self.keys[key] = f"{self._path(path)}@{count}" if count else self._path(path)
        return self.keys[key]


def _class_name(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}" if isinstance(cls, type) else cls


@contextlib.contextmanager
def repeats_copied(model: torch.nn.Module, copied: Copies) -> Iterator[None]:
    """While in force, layers of `model` that repeat are traced twice and then copied; `copied` counts them."""
    repeats = Repeats(model, copied)
    with contextlib.ExitStack() as stack:
        for cls, forward in [(cls, cls.forward) for cls in repeats.classes()]:
            stack.enter_context(patch.object(cls, "forward", _run_by(repeats, forward)))
        yield
    for kind in repeats.kinds():
        if kind.refused:
            logger.debug("layers of a kind are traced one by one: %s", kind.refused)


def _run_by(repeats: Repeats, forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(layer: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        return repeats.run(forward, layer, args, kwargs)

    return run
