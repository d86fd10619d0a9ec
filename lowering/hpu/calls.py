"""Calls of the vendor's operators in a program, in the form that is installed."""

from __future__ import annotations

import operator
from typing import Any

from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.lowering.hpu.hpu_ops import SchemaError, fitted, overload
from graphwright.passes.patterns.match import Rejected


def hpu_call(edit: Edit, name: str, *arguments: Any, **added: Any) -> Node:
    """Create a call of `hpu::<name>` with the arguments of its published schema, and newer ones by name.

    Raises:
        Rejected: The installed operator cannot be called like that.
    """
    try:
        return edit.call(overload(name), *fitted(name, arguments, added))
    except SchemaError as error:
        raise Rejected(str(error)) from error


def first_result(edit: Edit, call: Node) -> Node:
    """The first result of a call that has several."""
    return edit.call(operator.getitem, call, 0)
