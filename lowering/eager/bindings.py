"""Faster entry points to ATen ops: the C bindings that `torch.add` and `Tensor.view` are.

Calling an op overload goes through a generic schema matcher, which costs more than a small op itself. A binding here
takes the same positional arguments as the overload, in the same order; keyword arguments keep their names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

aten = torch.ops.aten

_SAME_NAME = """
    abs.default cos.default erf.default exp.default isnan.default log.default logical_not.default neg.default
    relu.default rsqrt.default sigmoid.default sin.default sqrt.default tanh.default
    add.Tensor add.Scalar sub.Tensor sub.Scalar mul.Tensor mul.Scalar div.Tensor div.Scalar
    eq.Tensor eq.Scalar ne.Tensor ne.Scalar lt.Tensor lt.Scalar le.Tensor le.Scalar gt.Tensor gt.Scalar ge.Tensor
    ge.Scalar pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar logical_and.default logical_or.default
    addmm.default baddbmm.default bmm.default matmul.default cat.default cumsum.default embedding.default
    index_select.default layer_norm.default masked_fill.Scalar masked_fill.Tensor mean.dim permute.default
    reshape.default rms_norm.default rsub.Scalar select.int softmax.int squeeze.dim t.default transpose.int
    unsqueeze.default where.ScalarOther where.self
"""


def _table() -> dict[Any, Callable[..., Any]]:
    names = [name.partition(".") for name in _SAME_NAME.split()]
    table: dict[Any, Callable[..., Any]] = {
        getattr(getattr(aten, base), overload): getattr(torch, base) for base, _, overload in names
    }
    return table | {
        aten.__and__.Tensor: torch.bitwise_and,
        aten.bitwise_and.Tensor: torch.bitwise_and,
        aten.contiguous.default: Tensor.contiguous,
        aten.expand.default: Tensor.expand,
        aten.gelu.default: torch._C._nn.gelu,
        aten.linear.default: torch._C._nn.linear,
        aten.scaled_dot_product_attention.default: torch._C._nn.scaled_dot_product_attention,
        aten.silu.default: torch._C._nn.silu,
        aten.split.Tensor: torch._VF.split,  # type: ignore[attr-defined]
        aten.sym_size.int: Tensor.size,
        aten.view.default: Tensor.view,
    }


BINDINGS: dict[Any, Callable[..., Any]] = _table()


def binding(node: Node) -> Callable[..., Any] | None:
    """The C binding that takes the same arguments as a call, or None."""
    function = BINDINGS.get(node.target)
    return function if function is not None and not _is_awkward(node) else None


def _is_awkward(node: Node) -> bool:
    """Whether the call spells its arguments in a way only the op overload understands."""
    return "self" in node.kwargs or "input" in node.kwargs
