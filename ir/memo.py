"""Type inference that remembers: repeated layers call the same ops on the same types."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import map_arg

from graphwright.ir.infer import infer
from graphwright.ir.node import OpOverload, value_of

_FRESH = (torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output)


class TypeMemo:
    """Infers results of calls on fake values, each combination of op and argument types once.

    Equal calls share one fake value. Ops that write, or make sizes of their own, are run every time.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode = mode
        self._known: dict[Hashable, Any] = {}

    def infer(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The fake result of `target(*args, **kwargs)`; nodes among the arguments stand for their values.

        Raises:
            Exception: Whatever the op raises for wrong arguments.
        """
        args, kwargs = map_arg(args, value_of), map_arg(kwargs, value_of)  # type: ignore[assignment]
        if not isinstance(target, OpOverload) or target._schema.is_mutable or set(_FRESH) & set(target.tags):
            return infer(self.mode, target, args, kwargs)
        key = (target, kind(args), kind(kwargs))
        if key not in self._known:
            self._known[key] = infer(self.mode, target, args, kwargs)
        return self._known[key]


def kind(value: Any) -> Hashable:
    """All that the type of a result, and whether it is a view, may depend on; hashable."""
    if isinstance(value, torch.Tensor):
        sizes = tuple(kind(size) for size in (*value.shape, *value.stride(), value.storage_offset()))
        return torch.Tensor, value.dtype, value.device, value.dim(), sizes
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return type(value), value.node.expr
    if isinstance(value, (list, tuple)):
        return type(value), tuple(kind(item) for item in value)
    if isinstance(value, dict):
        return dict, tuple((key, kind(item)) for key, item in value.items())
    return type(value), repr(value)
