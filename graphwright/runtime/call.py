"""Call: one call of `forward`, as a template, flat tensors, and the caches it may change."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graphwright.runtime.caches import Layout, Unservable, flatten_cache, is_cache
from graphwright.runtime.structure import Template, flatten, rebuild

_Kind = inspect.Parameter


class Parameters:
    """Names of the arguments of a `forward` that can be given by position.

    Args:
        forward: The function, `self` included.
    """

    def __init__(self, forward: Any) -> None:
        parameters = list(inspect.signature(forward).parameters.values())[1:]
        self.positional = tuple(p.name for p in parameters if p.kind in (_Kind.POSITIONAL_OR_KEYWORD,))
        self.defaults = {p.name: p.default for p in parameters}
        self.refusal = next(
            (f"its forward takes '{p}'" for p in parameters if p.kind in (_Kind.VAR_POSITIONAL, _Kind.POSITIONAL_ONLY)),
            None,
        )

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name; those that repeat a default of None are left out."""
        if len(args) > len(self.positional):
            raise Unservable(f"it has {len(args)} positional arguments")
        named = dict(zip(self.positional, args, strict=False)) | dict(kwargs)
        return {k: v for k, v in named.items() if v is not None or self.defaults.get(k, v) is not None}


class Call:
    """One call.

    Attributes:
        names: Names of the given arguments.
        templates: What each argument is, apart from its tensors and caches.
        tensors: All tensors, those of the caches as they were before the call.
        caches: Caches among the arguments.
        key: Hashable; calls with different keys are never served by the same graph.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.names = tuple(arguments)
        self.tensors: list[torch.Tensor] = []
        self.caches: list[Any] = []
        self.layouts: list[Layout] = []
        self.templates: list[Template] = []
        self._ends: list[int] = []
        for name, value in arguments.items():
            self.templates.append(self._argument(name, value))
            self._ends.append(len(self.tensors))
        types = tuple((tensor.dtype, tensor.device, tensor.requires_grad) for tensor in self.tensors)
        self.key = (self.names, tuple(self.templates), tuple(self.layouts), types)

    def _argument(self, name: str, value: Any) -> Template:
        if is_cache(value):
            self.caches.append(value)
            self.layouts.append(flatten_cache(value, self.tensors))
            return ("given", len(self.caches) - 1)
        try:
            return flatten(value, self.tensors)
        except Unservable as reason:
            raise Unservable(f"argument '{name}': {reason}") from None

    def arguments(self, tensors: Sequence[torch.Tensor]) -> tuple[dict[str, Any], list[Any]]:
        """The arguments of the call with other tensors, and the new caches among them."""
        left = iter(tensors)
        caches: list[Any] = []
        arguments: dict[str, Any] = {}
        for name, template in zip(self.names, self.templates, strict=True):
            if template[0] == "given":
                caches.append(rebuild(("cache", self.layouts[len(caches)]), left))
                arguments[name] = caches[-1]
            else:
                arguments[name] = rebuild(template, left)
        return arguments, caches

    def tensor(self, name: str) -> torch.Tensor:
        """The only tensor of an argument."""
        return self.tensors[self._ends[self.names.index(name)] - 1]

    def tensor_names(self) -> list[str]:
        """A distinct, readable identifier for each tensor.

        They differ from the arguments' names, because names such as `attention_mask` promise equal lengths, which do
        not hold beside a cache.
        """
        names: list[str] = []
        start = 0
        for name, end in zip(self.names, self._ends, strict=True):
            names += [f"{name}_{i}" for i in range(end - start)]
            start = end
        return names
