"""One call of a layer while it is traced: what goes in, what comes out, and what it changes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphwright.frontends.alike import is_plain
from graphwright.frontends.slots import Slot, is_cache

_NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool)


class Unknown(Exception):
    """There is something in a call of which nobody can tell what it does."""


class LayerCall:
    """The arguments of a call, and the part of each cache among them that belongs to the layer.

    Args:
        layer: The module that is called.
        index: Its position among its siblings.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Attributes:
        tensors: All tensors that the layer may read: arguments, its part of caches, parameters and buffers.
        signature: Equal for calls that a layer like this treats in the same way.

    Raises:
        Unknown: An argument is an object of a class that is not known here.
    """

    def __init__(self, layer: torch.nn.Module, index: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.layer, self.arguments = layer, (tuple(args), dict(kwargs))
        leaves, spec = pytree.tree_flatten(self.arguments, is_leaf=is_cache)
        self.slots = [Slot(leaf, index) for leaf in leaves if is_cache(leaf)]
        self.tensors: list[torch.Tensor] = []
        parts = [type(leaf) if is_cache(leaf) else self._part(leaf) for leaf in leaves]
        parts += [(place, self._part(value)) for slot in self.slots for place, value in slot.items()]
        self.signature = (spec, parts)
        self.tensors += (tensor for _, tensor in layer.named_parameters(remove_duplicate=False))
        self.tensors += (tensor for _, tensor in layer.named_buffers(remove_duplicate=False))
        self._before = self._surroundings()

    def _part(self, value: Any) -> Hashable:
        """What must be equal of an argument."""
        if isinstance(value, torch.Tensor):
            self.tensors.append(value)
            first = next(i for i, tensor in enumerate(self.tensors) if tensor is value)
            return first, type_of(value)
        if isinstance(value, _NUMBERS):
            return value.node.expr
        if is_plain(value):
            return type(value), value
        raise Unknown(f"an argument is a {type(value).__name__}")

    def _surroundings(self) -> list[Any]:
        """What must be the same objects after the call as before."""
        found = pytree.tree_leaves(self.arguments, is_leaf=is_cache)
        for slot in self.slots:
            found += slot.rest()
        for module in self.layer.modules():
            for name, value in vars(module).items():
                found += [value, *(value.values() if name in ("_parameters", "_buffers", "_modules") else ())]
        return found

    def results(self, returned: Any) -> list[tuple[Any, Any]]:
        """(place, value) of what the call returned, and of what it left in its part of caches.

        Raises:
            Unknown: It changed something else, or returned what is no tensor, number or constant.
        """
        after = self._surroundings()
        if len(after) != len(self._before) or any(a is not b for a, b in zip(after, self._before, strict=True)):
            raise Unknown("it changes more than its arguments and its part of a cache")
        found: list[tuple[Any, Any]] = [(None, leaf) for leaf in pytree.tree_leaves(returned)]
        found += [((i, place), value) for i, slot in enumerate(self.slots) for place, value in slot.items()]
        for _, value in found:
            if not isinstance(value, (torch.Tensor, *_NUMBERS)) and not is_plain(value):
                raise Unknown(f"it returns a {type(value).__name__}")
        return found


def type_of(tensor: torch.Tensor) -> Hashable:
    """What a traced tensor is, to all that can ask."""
    sizes = (*tensor.shape, *tensor.stride(), tensor.storage_offset())
    exact = tuple(size.node.expr if isinstance(size, torch.SymInt) else size for size in sizes)
    return type(tensor), tensor.dtype, str(tensor.device), tensor.requires_grad, exact


def plain_results(results: Sequence[tuple[Any, Any]]) -> Iterator[Hashable]:
    """What must be equal of the results of two calls that are the same."""
    for place, value in results:
        if isinstance(value, torch.Tensor):
            yield place, type_of(value)
        else:
            yield place, value.node.expr if isinstance(value, _NUMBERS) else value
