"""RMS norms and rotary embeddings as the vendor's fused operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.ir.edit import Edit
from graphwright.lowering.hpu.calls import first_result, hpu_call
from graphwright.passes.base import Pass
from graphwright.passes.patterns import Match, Rule, aten, ops


class FusedRmsNorm(Rule):
    """rms_norm(x, [n], weight, eps) -> hpu.rms_norm(x, weight, eps)[0]."""

    requires = frozenset({"canonical"})

    def pattern(self, x: Any, sizes: Any, weight: Any, eps: Any) -> Any:
        """The norm as ATen's operator; without a weight, ones stand for it."""
        return aten.rms_norm(x, sizes, weight, eps)

    def check(self, m: Match) -> None:
        """The operator normalises the last axis only."""
        m.require(len(m.sizes) == 1, "the operator normalises the last axis only")
        m.require(m.weight is None or m.weight.dtype == m.x.dtype, "input and weight must be of one type", at=m.weight)

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """The first result is the norm."""
        weight = m.weight
        if weight is None:
            weight = rw.aten.ones(list(m.sizes), dtype=m.x.dtype, device=m.x.type.device)
        eps = torch.finfo(m.x.dtype).eps if m.eps is None else float(m.eps)
        return first_result(rw, hpu_call(rw, "rms_norm", m.x, weight, eps))


class FusedRotary(Rule):
    """rotary_embedding(x, cos, sin) -> hpu.rotary_pos_embedding(x, sin, cos)."""

    requires = frozenset({"canonical"})

    def pattern(self, x: Any, cos: Any, sin: Any, interleaved: Any) -> Any:
        """Whole or partial, halves or neighbours."""
        return ops.graphwright.rotary_embedding(x, cos, sin, interleaved=interleaved)

    def check(self, m: Match) -> None:
        """Which features are rotated must be known."""
        m.require(isinstance(m.cos.shape[-1], int), "the number of rotated features must be fixed", at=m.cos)
        m.require(m.cos.shape[-1] == m.sin.shape[-1], "sine and cosine must be equally wide", at=m.sin)

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """Features that are not rotated are cut off and put back; everything in one type and rank."""
        width, dtype = int(m.cos.shape[-1]), m.root.meta["val"].dtype
        x, sin, cos = (_converted(value, m.x.rank, dtype, rw) for value in (m.x, m.sin, m.cos))
        is_partial = m.x.shape[-1] != width
        part = rw.aten.slice(x, -1, 0, width) if is_partial else x
        turned = hpu_call(rw, "rotary_pos_embedding", part, sin, cos, None, 0, int(m.interleaved))
        return rw.aten.cat([turned, rw.aten.slice(x, -1, width)], -1) if is_partial else turned


def _converted(value: Any, rank: int, dtype: torch.dtype, rw: Edit) -> Any:
    node = value.node if value.dtype == dtype else rw.aten.to.dtype(value, dtype)
    for _ in range(rank - value.rank):
        node = rw.aten.unsqueeze(node, 0)
    return node


@dataclass(frozen=True)
class HpuNorm(Pass):
    """RMS norms become `hpu::rms_norm`."""

    name = "hpu-norm"
    requires = frozenset({"functional", "canonical"})
    rules: ClassVar[tuple[type[Rule], ...]] = (FusedRmsNorm,)


@dataclass(frozen=True)
class HpuRotary(Pass):
    """Rotary embeddings become `hpu::rotary_pos_embedding`."""

    name = "hpu-rotary"
    requires = frozenset({"functional", "canonical"})
    rules: ClassVar[tuple[type[Rule], ...]] = (FusedRotary,)
