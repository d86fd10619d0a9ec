"""The table of ONNX operators, and what an operator's function is told about its node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import to_torch_dtype

from graphwright.ir.errors import CaptureError

Function = Callable[..., Any]

TABLE: dict[tuple[str, str], Function] = {}
"""(domain, operator) -> function of a `Call` and the input values; returns one value or a tuple of them."""


def register(*names: str, domain: str = "") -> Callable[[Function], Function]:
    """Register a function for operators of a domain."""

    def add(function: Function) -> Function:
        for name in names:
            TABLE[domain, name] = function
        return function

    return add


@dataclass(frozen=True, eq=False)
class Call:
    """One node of the ONNX graph as the functions of the table see it.

    Args:
        node: The node.
        opset: Version of the operator set of its domain.
        where: How errors name the node.
    """

    node: ir.Node
    opset: int
    where: str

    def attr(self, name: str, default: Any = None) -> Any:
        """Value of an attribute: a number, a string, a list, a tensor or a graph."""
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default
        value = attribute.value
        return list(value) if isinstance(value, (tuple, list)) else value

    def dtype(self, name: str, default: torch.dtype | None = None) -> torch.dtype | None:
        """An attribute that holds an element type."""
        code = self.attr(name)
        return default if code in (None, 0) else to_torch_dtype(ir.DataType(code))

    @property
    def outputs(self) -> int:
        """How many outputs there are up to the last one that is used."""
        outputs = enumerate(self.node.outputs)
        return max((i for i, value in outputs if value.uses() or value.is_graph_output()), default=0) + 1

    def unsupported(self, what: str, remedies: Sequence[str] = ()) -> CaptureError:
        """The error for a form of the operator that is not understood."""
        return CaptureError(f"cannot import {self.node.op_type}: {what}", at=self.where, remedies=remedies)
