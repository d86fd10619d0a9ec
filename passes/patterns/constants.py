"""Numbers that a graph holds as literals or as constant tensors without dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.node import bound, is_call

_aten = torch.ops.aten


def as_number(value: Any, state: Mapping[str, Any]) -> float | int | None:
    """The number that a literal or a constant 0-d tensor stands for, None for anything else.

    Args:
        value: A literal or node.
        state: Tensors of the program, for numbers that are stored there.
    """
    while is_call(value, _aten.lift_fresh_copy, _aten.detach, _aten.alias, _aten.clone):
        value = value.args[0]
    if not isinstance(value, Node):
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    if value.op == "get_attr":
        return _stored_number(state.get(str(value.target)))
    if is_call(value, _aten.scalar_tensor):
        return as_number(bound(value)["s"], state)
    if is_call(value, _aten.full.default) and not bound(value)["size"]:
        return as_number(bound(value)["fill_value"], state)
    return None


def _stored_number(tensor: Any) -> float | int | None:
    is_constant = isinstance(tensor, torch.Tensor) and not isinstance(tensor, torch.nn.Parameter)
    if not is_constant or tensor.dim() or tensor.dtype is torch.bool or tensor.is_complex() or tensor.is_meta:
        return None
    return tensor.item()
