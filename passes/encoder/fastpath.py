"""The `encoder-fastpath` pass: the layers of encoders in the form that runs fastest."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.fx import Node

from graphwright.ir.edit import Edit
from graphwright.ir.node import bound, is_call, shape_of, value_of
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.ir.views import is_view
from graphwright.passes.base import Pass
from graphwright.passes.encoder.layer import PARTS, PATTERN, EncoderLayer, NotLayer, find_layers
from graphwright.passes.patterns.match import Miss

aten = torch.ops.aten
RULE = "EncoderLayer"


@dataclass(frozen=True)
class EncoderFastpath(Pass):
    """Recognise the layers of encoders by structure and merge the projections of query, key and value in each.

    A factor on the queries becomes the scale of the attention. Whatever else a layer does (rotary positions, a bias,
    dropout, any activation) stays as it is. What fits no layer is a miss, with the reason.

    Fusing activations and residuals into the linears is the eager target's part, which works for any program.

    Args:
        merge: Merge the projections `always`, `never`, or (`auto`) where that makes the layer faster: on a GPU, not on
            a CPU, where three products of this size take as long as one and the merged weight would be a copy.
    """

    name = "encoder-fastpath"
    requires = frozenset({"functional", "canonical"})

    merge: Literal["auto", "always", "never"] = "auto"

    def apply(self, program: Program, rewriter: Rewriter) -> Iterable[Miss]:
        """Rewrite every layer; returns the misses."""
        misses: list[Miss] = []
        joined: dict[tuple[Node, ...], list[Node]] = {}
        for found in list(find_layers(program)):
            if isinstance(found, EncoderLayer):
                self._rewrite(found, joined, rewriter)
            else:
                misses.append(_miss(*found))
        for same in joined.values():
            _share(same, rewriter)
        softmaxes = (node for node in program.graph.nodes if is_call(node, aten.softmax))
        misses += [_unfused(node) for node in softmaxes if len(shape_of(node) or ()) > 2]
        return sorted(misses, key=lambda miss: -miss.score)

    def _rewrite(self, layer: EncoderLayer, joined: dict[tuple[Node, ...], list[Node]], rewriter: Rewriter) -> None:
        with rewriter.site(RULE, layer.nodes()) as edit:
            _absorb_scale(layer.attention, edit)
            if self._merges(layer):
                _merge(layer.projections, joined, edit)

    def _merges(self, layer: EncoderLayer) -> bool:
        wanted = self.merge == "always" or (self.merge == "auto" and value_of(layer.input).device.type != "cpu")
        return wanted and len(layer.projections) > 1 and _are_mergeable(layer.projections)


def _absorb_scale(attention: Node, edit: Edit) -> None:
    """Make a factor on the queries part of the attention's scale."""
    if not is_call(attention, aten.scaled_dot_product_attention):
        return
    arguments = bound(attention)
    node, views = arguments["query"], []
    while is_view(node) or is_call(node, aten.reshape):
        views.append(node)
        node = node.args[0]
    factor = _factor(node)
    width = (shape_of(arguments["query"]) or ())[-1]
    if factor is None or not (arguments["scale"] is not None or isinstance(width, int)):
        return
    scale = width**-0.5 if arguments["scale"] is None else arguments["scale"]
    query = node.args[0]
    edit.insert_before(attention)
    for view in reversed(views):
        query = edit.copy(view, (query, *view.args[1:]), dict(view.kwargs))
    options = {**attention.kwargs, "scale": scale * factor}
    edit.replace(attention, edit.call(attention.target, query, *attention.args[1:], **options))
    edit.erase(attention)


def _factor(node: Node) -> float | None:
    """The number that a product or quotient multiplies a tensor by, None for anything else."""
    if not is_call(node, aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar):
        return None
    source, number = node.args[:2]
    if (
        not isinstance(source, Node)
        or not isinstance(number, (int, float))
        or value_of(source).dtype != value_of(node).dtype
    ):
        return None
    if is_call(node, aten.mul):
        return float(number)
    return 1.0 / number if number else None


def _are_mergeable(linears: Sequence[Node]) -> bool:
    """Whether the weights have static sizes and one dtype, and come before all of the linears."""
    arguments = [bound(linear) for linear in linears]
    weights = [a["weight"] for a in arguments]
    sizes = [size for weight in weights for size in shape_of(weight) or ()]
    sources = [source for linear in linears for source in linear.all_input_nodes]
    first = min(linears)
    return (
        all(isinstance(size, int) for size in sizes)
        and len({value_of(weight).dtype for weight in weights}) == 1
        and all(source < first for source in sources)
    )


def _merge(linears: Sequence[Node], joined: dict[tuple[Node, ...], list[Node]], edit: Edit) -> None:
    """One linear on the concatenated weights, and a split."""
    first = min(linears)
    edit.insert_before(first)
    arguments = [bound(linear) for linear in linears]
    weights = tuple(a["weight"] for a in arguments)
    operands: list[Any] = [arguments[0]["input"], _joined(weights, joined, edit)]
    biases = [a["bias"] for a in arguments]
    if any(bias is not None for bias in biases):
        operands.append(_joined(_filled(biases, weights, edit), joined, edit))
    sizes = [(shape_of(weight) or ())[0] for weight in weights]
    result = edit.call(aten.linear.default, *operands)
    parts = edit.call(aten.split_with_sizes.default, result, sizes, len(shape_of(result) or ()) - 1)
    for i, linear in enumerate(linears):
        edit.replace(linear, edit.call(operator.getitem, parts, i))
        edit.erase(linear)


def _joined(parts: tuple[Node, ...], joined: dict[tuple[Node, ...], list[Node]], edit: Edit) -> Node:
    node = edit.call(aten.cat.default, list(parts), 0)
    joined.setdefault(parts, []).append(node)
    return node


def _share(same: Sequence[Node], rewriter: Rewriter) -> None:
    """Keep the first of several concatenations of the same weights."""
    for node in same[1:]:
        with rewriter.site("SharedWeight", (node,)) as edit:
            edit.replace(node, same[0])
            edit.erase(node)


def _filled(biases: Sequence[Node | None], weights: Sequence[Node], edit: Edit) -> tuple[Node, ...]:
    """The biases, zeros where a linear has none."""
    return tuple(
        edit.call(aten.new_zeros.default, weight, [(shape_of(weight) or ())[0]]) if bias is None else bias
        for bias, weight in zip(biases, weights, strict=True)
    )


def _miss(attention: Node, reason: NotLayer) -> Miss:
    part = PARTS[reason.part]
    start = PATTERN.rindex(part) if reason.part == "end" else PATTERN.index(part)
    score = list(PARTS).index(reason.part)
    return Miss(RULE, attention, reason.reason, reason.culprit, score, PATTERN, (start, start + len(part)))


def _unfused(softmax: Node) -> Miss:
    start = PATTERN.index(PARTS["attention"])
    return Miss(
        RULE,
        softmax,
        "the attention is written out",
        softmax,
        0,
        PATTERN,
        (start, start + len(PARTS["attention"])),
        hint="run fuse-attention before; its misses say why it was not fused",
    )
