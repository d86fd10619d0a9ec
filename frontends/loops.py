"""Loops over the items in use: `for expert in used.nonzero():` goes over all items while the model is traced.

How many rows `nonzero` has depends on values, so torch.export cannot trace a loop over them. Where the mask has a fixed
size, the loop can run for each item instead, and an item that is not in use selects nothing and adds nothing. That the
body is of this kind is not proved but compared: the trace must compute what the model does on an example that leaves
items out in every loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_NONZERO = (torch.nonzero, torch.Tensor.nonzero)
_UNBIND = (torch.unbind, torch.Tensor.unbind)
_SQUEEZE = (torch.squeeze, torch.Tensor.squeeze)


class NoLoop(Exception):
    """There is no loop over items in use, or it cannot run for the others."""


class AllItems(TorchFunctionMode):
    """Lets loops over the result of `nonzero` run for every item, used or not.

    Args:
        pretend: Whether to change the loops; without it they are only counted.
        spare: How many of the last items to leave out, which the model cannot have in use.

    Attributes:
        loops: How many loops there were.
        full: How many of them had all items in use.
    """

    def __init__(self, *, pretend: bool = True, spare: int = 0) -> None:
        super().__init__()
        self.pretend, self.spare, self.loops, self.full = pretend, spare, 0, 0
        self._items: dict[int, tuple[torch.Tensor, int]] = {}
        self._positions: dict[int, torch.Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = self._items.get(id(args[0])) if args else None
        if func in _UNBIND and known is not None:
            self.loops += 1
            if not self.pretend:
                self.full += known[0].shape[0] >= known[1] - self.spare
            if self.pretend:
                return _rows(known[0], known[1] - self.spare)
        if func is torch.Tensor.numel and id(args[0]) in self._positions and self.pretend:
            return torch.sym_max(func(*args), 1)  # a body that skips items without positions does them all
        if func is torch.Tensor.__format__ and self.pretend:
            return format(args[0].item(), *args[1:])
        result = func(*args, **kwargs)
        self._remember(func, args, result)
        return result

    def _remember(self, func: Callable[..., Any], args: Any, result: Any) -> None:
        if func in _NONZERO and isinstance(result, torch.Tensor) and args[0].dim() == 1:
            if type(args[0].shape[0]) is int:
                self._items[id(result)] = result, args[0].shape[0]
        elif func in _SQUEEZE and id(args[0]) in self._items and result.dim() == 1:
            self._items[id(result)] = result, self._items[id(args[0])][1]
        elif isinstance(result, tuple) and (func in _NONZERO or (func is torch.where and len(args) == 1)):
            self._note(result)

    def _note(self, positions: Iterable[torch.Tensor]) -> None:
        self._positions.update((id(position), position) for position in positions)


def _rows(items: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
    """The numbers of all items, in the form of the rows of `items`; their values are known while tracing."""
    return tuple(torch.tensor([i] if items.dim() == 2 else i, device=items.device) for i in range(count))


def agree(expected: list[Any], found: list[Any]) -> None:
    """Check that a trace computes what the model does.

    Raises:
        NoLoop: It does not: an item that is not in use changes the result.
    """
    for want, have in zip(expected, found, strict=True):
        if isinstance(want, torch.Tensor):
            try:
                torch.testing.assert_close(have, want, equal_nan=True)
            except AssertionError as error:
                raise NoLoop("the loop does something for items that are not in use") from error
