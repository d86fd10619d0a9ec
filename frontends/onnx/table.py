"""The table of ONNX operators, and what an operator's function is told about its node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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


WITHOUT_EFFECT = {
    "Attention": {"softmax_precision", "q_num_heads", "kv_num_heads"}, "BatchNormalization": {"momentum"},
    "Cast": {"saturate", "round_mode"}, "CastLike": {"saturate", "round_mode"}, "Conv": {"kernel_shape"},
    "ConvTranspose": {"kernel_shape"}, "Dropout": {"seed", "ratio"}, "LayerNormalization": {"stash_type"},
    "MaxPool": {"storage_order"}, "QuantizeLinear": {"saturate", "precision"}, "RMSNormalization": {"stash_type"},
    "RotaryEmbedding": {"num_heads", "rotary_embedding_dim", "is_packed_batching", "max_position_embeddings"},
    "TopK": {"sorted"}, "GroupQueryAttention": {"rotary_interleaved"}, "MatMulNBits": {"accuracy_level"},
    "Range": {"stash_type"},
    "GroupNormalization": {"stash_type"}, "InstanceNormalization": {"stash_type"},
}  # fmt: skip
"""Attributes that do not change what is computed here, by operator; any other one that is not read is an error."""


@dataclass(frozen=True, eq=False)
class Call:
    """One node of the ONNX graph as the functions of the table see it.

    Args:
        node: The node.
        opset: Version of the operator set of its domain.
        where: How errors name the node.
        read: Names of the attributes that were asked for.
    """

    node: ir.Node
    opset: int
    where: str
    read: set[str] = field(default_factory=set)

    def check_read(self) -> None:
        """Refuse attributes that the operator's function has not looked at: they would be ignored silently.

        Raises:
            CaptureError: Names them.
        """
        unread = set(self.node.attributes) - self.read - WITHOUT_EFFECT.get(self.node.op_type, set())
        if unread:
            raise self.unsupported(f"the attribute {', '.join(sorted(unread))}")

    def attr(self, name: str, default: Any = None) -> Any:
        """Value of an attribute: a number, a string, a list, a tensor or a graph."""
        self.read.add(name)
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
