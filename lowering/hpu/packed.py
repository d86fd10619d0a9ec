"""Packed linears: weights of 4 bits that the vendor's operator unpacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Node

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.ir.edit import Edit
from graphwright.ir.packed import unpack_codes
from graphwright.lowering.hpu.calls import hpu_call
from graphwright.lowering.hpu.hpu_ops import takes
from graphwright.passes.base import Pass
from graphwright.passes.patterns import Match, Rule, ops

PER_WORD = 8
"""Codes in an int32."""


class PackedRule(Rule):
    """Base of rules for packed weights, whose captures are the arguments of the packed op.

    Codes and zeros are packed anew, along the outputs, low bits first; a symmetric weight gets the zero 8. Groups that
    are scattered over the inputs are passed as `g_idx` where the installed operator has it.
    """

    requires = frozenset({"canonical"})

    def check(self, m: Match) -> None:
        """Codes of up to 4 bits in the state, whole groups, whole words."""
        m.require(m.bits <= 4, f"the operator unpacks 4 bits, the codes have {m.bits}")
        for part in (m.weight, m.scales, m.zeros, m.group_index):
            m.require(part is None or part.node.op == "get_attr", "the packed weight is computed, not stored", at=part)
        inputs, (outputs, groups) = self.inputs(m), m.scales.shape
        m.require(inputs == groups * m.group_size, f"{inputs} inputs are not {groups} groups of {m.group_size}")
        m.require(outputs % PER_WORD == 0, f"{outputs} outputs do not fill words of {PER_WORD} codes")

    def inputs(self, m: Match) -> int:
        """Number of inputs of the weight."""
        return int(m.inputs)

    def unpacked(self, m: Match, dtype: torch.dtype, rw: Edit) -> tuple[Node, Tensor | None]:
        """The weight [inputs, outputs], and the order that its inputs were brought into, None for their own."""
        state, order, added = rw.rewriter.program.state, None, {}
        codes = unpack_codes(_stored(m.weight, state), m.bits, self.inputs(m))
        if m.group_index is not None and takes("convert_from_uint4", "g_idx"):
            added["g_idx"] = m.group_index
        elif m.group_index is not None:
            index = _stored(m.group_index, state)
            whole = bool((index.bincount(minlength=m.scales.shape[1]) == m.group_size).all())
            m.require(whole, f"a group has not {m.group_size} inputs", at=m.group_index)
            order = index.argsort(stable=True)
            codes = codes[:, order]
        scales = _stored(m.scales, state).T.to(dtype).contiguous()
        zeros = torch.full_like(codes[:, : len(scales)], 2 ** (m.bits - 1))
        zeros = zeros if m.zeros is None else _stored(m.zeros, state)
        words = {"codes": pack_words(codes.T), "scale": scales, "zero_points": pack_words(zeros.T)}
        name = _name(m)
        parts = [rw.get_state(f"{name}.hpu_{key}", value) for key, value in words.items()]
        return hpu_call(rw, "convert_from_uint4", *parts, dtype, **added), order


class PackedMatmul(PackedRule):
    """packed_linear(x, codes, scales) -> matmul(x, hpu.convert_from_uint4(codes, scales, zeros)).

    Without `g_idx`, what is multiplied is brought into the order of the groups.
    """

    def pattern(
        self, x: Any, weight: Any, scales: Any, zeros: Any, group_index: Any, bias: Any, bits: Any, group_size: Any
    ) -> Any:
        """Any packed linear."""
        return ops.graphwright.packed_linear(x, weight, scales, zeros, group_index, bias, bits, group_size)

    def inputs(self, m: Match) -> int:
        """As many as the last axis of what is multiplied has."""
        return int(m.x.shape[-1])

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """The product, and the bias after it."""
        weight, order = self.unpacked(m, m.x.dtype, rw)
        x = m.x if order is None else rw.aten.index_select(m.x, -1, rw.get_state(f"{_name(m)}.order", order))
        result = rw.aten.matmul(x, weight)
        return result if m.bias is None else rw.aten.add(result, m.bias)


class UnpackedWeight(PackedRule):
    """unpack_weight(codes, scales) -> hpu.convert_from_uint4(codes, scales, zeros).T, for experts' stacked weights.

    Without `g_idx`, the inputs are brought back from the order of the groups.
    """

    def pattern(
        self,
        weight: Any,
        scales: Any,
        zeros: Any,
        group_index: Any,
        bits: Any,
        group_size: Any,
        inputs: Any,
        dtype: Any,
    ) -> Any:
        """Any weight that is unpacked on its own."""
        return ops.graphwright.unpack_weight(weight, scales, zeros, group_index, bits, group_size, inputs, dtype)

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """The transposed weight."""
        weight, order = self.unpacked(m, m.dtype, rw)
        if order is not None:
            weight = rw.aten.index_select(weight, 0, rw.get_state(f"{_name(m)}.order", order.argsort()))
        return rw.aten.transpose.int(weight, 0, 1)


def _name(m: Match) -> str:
    """Where the weight lies in the state."""
    return str(m.weight.node.target).rpartition(".")[0] or str(m.weight.node.name)


def _stored(value: Any, state: Mapping[str, Any]) -> Tensor:
    return state[str(value.node.target)]


def pack_words(codes: Tensor) -> Tensor:
    """Codes [rows, columns] below 16 as int32 [rows, columns / 8], the first code in the lowest bits."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int64, device=codes.device)
    words = (codes.reshape(codes.shape[0], -1, PER_WORD).long() << shifts).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


@dataclass(frozen=True)
class HpuPacked(Pass):
    """Packed linears become `hpu::convert_from_uint4` and a product; unpacked weights lose the product."""

    name = "hpu-packed"
    requires = frozenset({"functional", "canonical"})
    rules: ClassVar[tuple[type[Rule], ...]] = (PackedMatmul, UnpackedWeight)
