"""The `fuse-attention` pass: softmax attention in any spelling becomes `aten.scaled_dot_product_attention`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.fx import Node

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.ir.edit import Edit
from graphwright.ir.errors import PassError
from graphwright.ir.infer import same_shape, same_size
from graphwright.ir.node import is_call, shape_of, value_of, where
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.ir.sizes import SizeError, size_node
from graphwright.passes.attention.bias import build_bias
from graphwright.passes.attention.heads import unrepeated
from graphwright.passes.attention.mask import judge, may_mask
from graphwright.passes.attention.probabilities import Weighted, follow
from graphwright.passes.attention.region import PATTERN, Attention, NotAttention, Scores, span
from graphwright.passes.attention.scores import find_scores
from graphwright.passes.base import Pass
from graphwright.passes.canonicalize.cleanup import remove_dead
from graphwright.passes.patterns.match import Miss

aten = torch.ops.aten
RULE = "SoftmaxAttention"
State = Mapping[str, Any]


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Fuse `softmax(scale * (q @ k^T) + mask) @ v` into one scaled dot product attention.

    Soft-capped scores and attention sinks, which ATen's op cannot express, become `graphwright::attention`.

    A mask that is proved causal for every size becomes `is_causal`, one that keeps everything is dropped, repeated
    key and value heads become grouped-query attention.

    Args:
        expect: `all` warns, with the nearest misses, when an attention stays unfused.
        causal: Prove masks causal; without it they stay as they are.
        grouped: Undo repeated key and value heads.
    """

    name = "fuse-attention"
    requires = frozenset({"functional", "canonical"})

    expect: Literal["any", "all"] = "any"
    causal: bool = True
    grouped: bool = True

    def apply(self, program: Program, rewriter: Rewriter) -> Iterable[Miss]:
        """Fuse every attention; returns the misses, nearest first."""
        misses: list[Miss] = []
        for softmax in [node for node in program.graph.nodes if is_call(node, aten.softmax)]:
            found = recognise(softmax, program.state)
            miss = self._fuse(found, program.state, rewriter) if isinstance(found, Attention) else found
            if miss is not None:
                misses.append(miss)
        self._simplify_masks(program, rewriter)
        remove_dead(program, rewriter)
        misses.sort(key=lambda miss: -miss.score)
        if self.expect == "all":
            _warn(misses)
        return misses

    def _fuse(self, attention: Attention, state: State, rewriter: Rewriter) -> Miss | None:
        try:
            with rewriter.site(RULE, sorted(attention.nodes())) as edit:
                edit.replace(attention.output, self._emit(attention, state, edit))
        except NotAttention as reason:
            return _miss(attention.softmax, reason)
        except SizeError as error:
            return _miss(attention.softmax, NotAttention(error.what, attention.output, "mask"))
        except PassError as error:  # such as values whose width may differ from that of the queries
            what = f"ATen's operator would give another type: {error.why}"
            return _miss(attention.softmax, NotAttention(what, attention.output, "values"))
        return None

    def _emit(self, found: Attention, state: State, edit: Edit) -> Node:
        """Create the fused op and what it needs; returns the value that stands for the old output."""
        bias = build_bias(found.scores, edit, zeroed=found.zeroed)
        query, key = found.scores.query, _transposed(found.scores.key_transposed, edit)
        if bias.product_factor is not None:
            query = edit.aten.mul(query, bias.product_factor)
        bias_node, causal = self._mask(bias.node, state)
        dtype = _working_dtype(found, bias_node)
        query, key, value = (_in_dtype(node, dtype, edit) for node in (query, key, found.value))
        leading = (shape_of(found.softmax) or ())[:-2]
        query, key = (_at_level(node, leading, edit) for node in (query, key))
        value = _at_level(value, leading, edit)
        if bias.query_factor is not None:
            query = edit.aten.mul(query, bias.query_factor)
        flat = len(leading) == 1
        mask = None if bias_node is None else _cast_mask(bias_node, dtype, edit)
        if flat:
            query, key, value = (edit.aten.unsqueeze(node, 0) for node in (query, key, value))
            mask = edit.aten.unsqueeze(mask, 0) if mask is not None and len(shape_of(mask) or ()) > 2 else mask
        key, value, grouped = self._heads(query, key, value, edit)
        scale, softcap = bias.scale_and_cap()
        options: dict[str, Any] = {"scale": scale} | ({"enable_gqa": True} if grouped else {})
        if softcap is None and bias.sinks is None:
            result = edit.aten.scaled_dot_product_attention(query, key, value, mask, found.dropout, causal, **options)
        else:
            options |= {"dropout_p": found.dropout, "is_causal": causal, "softcap": softcap, "sinks": bias.sinks}
            result = edit.ops("graphwright").attention(query, key, value, mask, **options)
        if flat:
            result = edit.aten.squeeze.dim(result, 0)
        return _like(result, found.output, edit)

    def _mask(self, bias: Node | None, state: State) -> tuple[Node | None, bool]:
        """The bias that has to stay, and whether it stands for causality."""
        verdict = judge(bias, state) if bias is not None and self.causal else "other"
        return (bias, False) if verdict == "other" else (None, verdict == "causal")

    def _heads(self, query: Node, key: Node, value: Node, edit: Edit) -> tuple[Node, Node, bool]:
        """Keys and values with their own number of heads where that is fewer than the query's."""
        if self.grouped:
            (key_source, times), (value_source, value_times) = unrepeated(key), unrepeated(value)
            if times == value_times > 1:
                return key_source, value_source, True
        q, k, v = (shape_of(node) or () for node in (query, key, value))
        if len(q) == 4 and _is_one(k[1]) and _is_one(v[1]) and not _is_one(q[1]) and self.grouped:
            return key, value, True
        return _broadcast(key, query, edit), _broadcast(value, query, edit), False

    def _simplify_masks(self, program: Program, rewriter: Rewriter) -> None:
        """Drop or flag the masks of attention that was fused before."""
        if not self.causal:
            return
        for node in [n for n in program.graph.nodes if is_call(n, aten.scaled_dot_product_attention)]:
            arguments = list(node.args) + [None, 0.0, False][len(node.args) - 3 :]
            mask = arguments[3]
            if not isinstance(mask, Node) or arguments[5]:
                continue
            verdict = judge(mask, program.state)
            if verdict == "other":
                continue
            with rewriter.site("AttentionMask", (node,)) as edit:
                arguments[3], arguments[5] = None, verdict == "causal"
                edit.replace(node, edit.call(node.target, *arguments, **node.kwargs))
                edit.erase(node)


def recognise(softmax: Node, state: State) -> Attention | Miss:
    """Analyse the region around a softmax."""
    try:
        rank = len(shape_of(softmax) or ())
        dim = softmax.args[1]
        if rank < 3 or dim not in (-1, rank - 1):
            raise NotAttention(f"softmax runs over dim {dim} of {rank}, not over the keys of attention", softmax, "dim")
        weighted = follow(softmax, state)
        source: Any = softmax.args[0]
        scores = find_scores(source, state)
        if any(step.kind == "sinks" for step in scores.steps) != (weighted.cut is not None):
            raise NotAttention("the probabilities are cut, but the scores were not extended", softmax, "values")
        _check_zeroed(weighted, scores, state)
        return Attention(
            softmax,
            scores,
            weighted.value,
            weighted.output,
            weighted.dropout,
            weighted.between,
            zeroed=bool(weighted.zeroed),
        )
    except NotAttention as reason:
        return _miss(softmax, reason)


def _check_zeroed(weighted: Weighted, scores: Scores, state: State) -> None:
    """Setting probabilities to 0 changes nothing where their scores were masked already, but in fully masked rows.

    With another finite mask beside the fill, such a row would be shared between the two: that is not expressible.
    """
    fills = [step for step in scores.steps if step.kind == "fill" and not step.inverted]
    finite = any(step.number != -math.inf for step in fills)
    masks = finite and any(step.kind == "add" and may_mask(step.tensor, state) for step in scores.steps)
    for mask in weighted.zeroed:
        if mask not in [step.tensor for step in fills] or masks or weighted.cut is not None:
            reason = "masked_fill is applied to the probabilities, with another mask than to the scores"
            raise NotAttention(reason, weighted.between[0], "values")


def _miss(softmax: Node, reason: NotAttention) -> Miss:
    score = {"dim": 0, "values": 1}.get(reason.part, 2 + reason.depth)
    return Miss(RULE, softmax, reason.reason, reason.culprit, score, PATTERN, span(reason.part))


def _transposed(key_transposed: Node, edit: Edit) -> Node:
    """The keys [..., keys, width] of the transposed keys [..., width, keys]."""
    rank = len(shape_of(key_transposed) or ())
    if is_call(key_transposed, aten.transpose.int) and tuple(key_transposed.args[1:]) == (rank - 2, rank - 1):
        source = key_transposed.args[0]
        assert isinstance(source, Node)
        return source
    return edit.call(aten.transpose.int, key_transposed, rank - 2, rank - 1)


def _working_dtype(found: Attention, bias: Node | None) -> torch.dtype:
    """The dtype to compute in: that of the values, so that fused kernels apply.

    A model that computes its scores in a wider one from narrower queries, and masks them, keeps the wider one: masks
    that are added up there would leave the range of the narrower.
    """
    narrow, wide = value_of(found.value).dtype, value_of(found.scores.product).dtype
    return wide if bias is not None and torch.promote_types(narrow, wide) != narrow else narrow


def _in_dtype(node: Node, dtype: torch.dtype, edit: Edit) -> Node:
    """A value in another dtype; an upcast before the product is undone, it is what the fused op does inside."""
    while is_call(node, aten.to.dtype) and value_of(node).dtype != dtype:
        source = node.args[0]
        assert isinstance(source, Node)
        if not value_of(source).dtype.is_floating_point:
            break
        node = source
    return node if value_of(node).dtype == dtype else edit.call(aten.to.dtype, node, dtype)


def _at_level(node: Node, leading: tuple[Any, ...], edit: Edit) -> Node:
    """The tensor with its batch dims reshaped to those of the softmax, if they differ in number."""
    shape = shape_of(node) or ()
    if len(shape) == len(leading) + 2 or same_shape(shape[:-2], leading):
        return node
    sizes = [size_node(size, edit) for size in (*leading, *shape[-2:])]
    return edit.aten.reshape(node, sizes)


def _like(result: Node, output: Node, edit: Edit) -> Node:
    """The result in the shape and dtype of the old output."""
    old, new = shape_of(output) or (), shape_of(result) or ()
    if not same_shape(old, new):
        result = edit.aten.reshape(result, [size_node(size, edit) for size in old])
    dtype = value_of(output).dtype
    return result if value_of(result).dtype == dtype else edit.call(aten.to.dtype, result, dtype)


def _cast_mask(bias: Node, dtype: torch.dtype, edit: Edit) -> Node:
    """The bias in the dtype of the query; what is out of its range becomes its most negative number, not -inf."""
    have = value_of(bias).dtype
    if have in (dtype, torch.bool):
        return bias
    if torch.finfo(have).min < torch.finfo(dtype).min:
        bias = edit.aten.clamp_min(bias, torch.finfo(dtype).min)
    return edit.call(aten.to.dtype, bias, dtype)


def _broadcast(node: Node, query: Node, edit: Edit) -> Node:
    """Keys or values expanded to the batch dims of the query."""
    want, have = (shape_of(query) or ())[:-2], (shape_of(node) or ())[:-2]
    if len(want) == len(have) and all(same_size(a, b) for a, b in zip(want, have, strict=True)):
        return node
    if not all(_is_one(b) or same_size(a, b) for a, b in zip(want, have, strict=True)):
        return node
    tail = [size_node(size, edit) for size in (shape_of(node) or ())[-2:]]
    return edit.aten.expand(node, [*(size_node(size, edit) for size in want), *tail])


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def _warn(misses: list[Miss]) -> None:
    near = [miss for miss in misses if miss.score >= 2]
    if near:
        lines = [f"  %{miss.root.name}: {miss.reason}; at {where(miss.culprit or miss.root)}" for miss in near]
        warnings.warn(f"fuse-attention left {len(near)} attention(s) unfused:\n" + "\n".join(lines), stacklevel=2)
