"""The scale and the bias of an attention, built from its steps: `scores = scale * (q @ k^T) + bias`.

Steps are composed from the product outwards, so the bias ends at the level of the softmax. A fill overrides what was
added before it. A finite fill must absorb the score that it is added to, so that a fully masked row stays uniform: one
that does not becomes the most negative finite number, which gives the same softmax as long as no later step tells the
two apart; -inf stays -inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.node import shape_of, value_of
from graphwright.ir.sizes import size_node
from graphwright.passes.attention.region import MASKED, NotAttention, Scores, Step

aten = torch.ops.aten


@dataclass
class Bias:
    """Result of composing the steps: `cap(scale * (query * query_factor) @ k^T) + node`, and the sinks.

    `product_factor` multiplies the query too, before its batch dims are reshaped to those of the softmax.

    While composing, `capped_scale` is the scale inside of a tanh that was met and `scale` the one outside of it;
    `weak_fill` is a fill that was replaced by a more negative number.
    """

    scale: float = 1.0
    node: Node | None = None
    query_factor: Node | None = None
    product_factor: Node | None = None
    reshaped: bool = False
    capped_scale: float | None = None
    sinks: Node | None = None
    weak_fill: float | None = None

    def scale_and_cap(self) -> tuple[float, float | None]:
        """`a * tanh(b * x)` as the scale a * b, capped at a."""
        if self.capped_scale is None:
            return self.scale, None
        return self.capped_scale * self.scale, self.scale


def build_bias(scores: Scores, edit: Edit, *, zeroed: bool = False) -> Bias:
    """Compose the steps of `scores` into nodes made by `edit`; with `zeroed`, every fill is -inf.

    Raises:
        NotAttention: A step cannot be expressed as a bias.
    """
    bias = Bias()
    for step in reversed(scores.steps):
        if zeroed and step.kind == "fill":
            step = replace(step, number=-math.inf)
        _after_sinks(bias, step)
        _after_weak_fill(bias, step)
        _COMPOSE[step.kind](bias, step, edit)
        while bias.node is not None and len(shape_of(bias.node) or ()) < 2:
            bias.node = edit.aten.unsqueeze(bias.node, 0)
    return bias


def _scale(bias: Bias, step: Step, edit: Edit) -> None:
    bias.scale *= step.number
    if bias.node is not None and step.number != 1:
        bias.node = edit.aten.mul(bias.node, step.number)


def _scale_tensor(bias: Bias, step: Step, edit: Edit) -> None:
    factor = bias.query_factor
    bias.query_factor = step.tensor if factor is None else edit.aten.mul(factor, step.tensor)
    if bias.node is not None:
        bias.node = edit.aten.mul(bias.node, step.tensor)


def _add(bias: Bias, step: Step, edit: Edit) -> None:
    term = step.tensor
    if not value_of(term).dtype.is_floating_point:  # some models add a boolean mask: 1 where it is true
        term = edit.call(aten.to.dtype, term, value_of(step.node).dtype)
    if step.number != 1:
        term = edit.aten.mul(term, step.number)
    bias.node = term if bias.node is None else edit.aten.add(bias.node, term)


def _fill(bias: Bias, step: Step, edit: Edit) -> None:
    value = value_of(step.node)
    fill = step.number
    if not _absorbs(fill, value.dtype):
        bias.weak_fill, fill = fill, float(torch.finfo(value.dtype).min)
    if bias.node is None:
        rest = edit.call(aten.scalar_tensor.default, 0.0, dtype=value.dtype, device=value.device)
    elif value_of(bias.node).dtype != value.dtype:
        rest = edit.call(aten.to.dtype, bias.node, value.dtype)
    else:
        rest = bias.node
    mask = step.tensor
    if value_of(mask).dtype != torch.bool:
        mask = edit.call(aten.to.dtype, mask, torch.bool)
    if step.inverted:
        bias.node = edit.call(aten.where.ScalarOther, mask, rest, fill)
    else:
        bias.node = edit.call(aten.where.ScalarSelf, mask, fill, rest)


def _absorbs(fill: float, dtype: torch.dtype) -> bool:
    """Whether a score added to a fill is lost in rounding."""
    return fill <= max(-1e30, torch.finfo(dtype).min / 2)


def _after_weak_fill(bias: Bias, step: Step) -> None:
    """Rows that are masked throughout would show that a weak fill was replaced, had it been changed afterwards."""
    if bias.weak_fill is None or step.kind in ("same", "reshape", "sinks"):
        return
    overrides = step.kind == "fill" and step.number in (bias.weak_fill, -math.inf)
    if step.kind == "scale" and 0 < step.number <= 1 and bias.weak_fill * step.number <= MASKED:
        bias.weak_fill *= step.number
    elif not overrides:
        raise NotAttention(f"the scores change after they were filled with {bias.weak_fill:g}", step.node, "mask")


def _tanh(bias: Bias, step: Step, edit: Edit) -> None:
    if bias.node is not None or bias.capped_scale is not None:
        raise NotAttention("tanh is applied to scores that a mask was added to", step.node, "scale")
    bias.capped_scale, bias.scale = bias.scale, 1.0


def _sinks(bias: Bias, step: Step, edit: Edit) -> None:
    if bias.sinks is not None:
        raise NotAttention("more than one column is appended to the scores", step.node, "softmax")
    bias.sinks = step.tensor


def _after_sinks(bias: Bias, step: Step) -> None:
    """Once the sinks are part of the scores, only value-preserving steps may follow."""
    if bias.sinks is not None and step.kind != "same":
        raise NotAttention("the scores change after a column was appended to them", step.node, "softmax")


def _same(bias: Bias, step: Step, edit: Edit) -> None:
    """The step keeps the value."""


def _reshape(bias: Bias, step: Step, edit: Edit) -> None:
    """Carry what was built so far outwards through a reshape of the leading dims."""
    if bias.query_factor is not None:
        if bias.reshaped:
            raise NotAttention("the scores are reshaped after they were multiplied with a tensor", step.node, "scale")
        bias.product_factor, bias.query_factor = bias.query_factor, None
    bias.reshaped = True
    if bias.node is None:
        return
    source = step.node.args[0]
    assert isinstance(source, Node)
    shape = shape_of(bias.node) or ()
    leading = shape[:-2]
    if all(isinstance(size, int) and size == 1 for size in leading):
        for _ in leading:
            bias.node = edit.call(aten.squeeze.dim, bias.node, 0)
        return
    rows = [size_node(size, edit) for size in shape[-2:]]
    inner = [size_node(size, edit) for size in (shape_of(source) or ())[:-2]]
    outer = [size_node(size, edit) for size in (shape_of(step.node) or ())[:-2]]
    bias.node = edit.aten.reshape(edit.aten.expand(bias.node, [*inner, *rows]), [*outer, *rows])


_COMPOSE: dict[str, Callable[[Bias, Step, Edit], None]] = {
    "scale": _scale,
    "scale_tensor": _scale_tensor,
    "add": _add,
    "fill": _fill,
    "tanh": _tanh,
    "sinks": _sinks,
    "same": _same,
    "reshape": _reshape,
}
