"""Packed linears: weights of 4 bits that the vendor's operator unpacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright
from graphwright.ir.edit import Edit
from graphwright.ir.packed import unpack_codes
from graphwright.lowering.hpu.calls import hpu_call
from graphwright.lowering.hpu.hpu_ops import takes
from graphwright.passes.base import Pass
from graphwright.passes.patterns import Match, Rule, ops

PER_WORD = 8
"""Codes in an int32."""


class PackedMatmul(Rule):
    """packed_linear(x, codes, scales) -> matmul(x, hpu.convert_from_uint4(codes, scales, zeros)).

    Codes and zeros are packed anew, along the outputs, low bits first; a symmetric weight gets the zero 8. Groups that
    are scattered over the inputs are passed as `g_idx` where the installed operator has it; elsewhere the inputs are
    brought into the order of their groups.
    """

    requires = frozenset({"canonical"})

    def pattern(
        self, x: Any, weight: Any, scales: Any, zeros: Any, group_index: Any, bias: Any, bits: Any, group_size: Any
    ) -> Any:
        """Any packed linear."""
        return ops.graphwright.packed_linear(x, weight, scales, zeros, group_index, bias, bits, group_size)

    def check(self, m: Match) -> None:
        """Codes of up to 4 bits in the state, whole groups, whole words."""
        m.require(m.bits <= 4, f"the operator unpacks 4 bits, the codes have {m.bits}")
        for part in (m.weight, m.scales, m.zeros, m.group_index):
            m.require(part is None or part.node.op == "get_attr", "the packed weight is computed, not stored", at=part)
        inputs, (outputs, groups) = m.x.shape[-1], m.scales.shape
        m.require(inputs == groups * m.group_size, f"{inputs} inputs are not {groups} groups of {m.group_size}")
        m.require(outputs % PER_WORD == 0, f"{outputs} outputs do not fill words of {PER_WORD} codes")

    def rewrite(self, m: Match, rw: Edit) -> Any:
        """The product, and the bias after it."""
        state, x, added = rw.rewriter.program.state, m.x.node, {}
        name = str(m.weight.node.target).rpartition(".")[0] or m.weight.node.name
        codes = unpack_codes(_stored(m.weight, state), m.bits, int(m.x.shape[-1]))
        if m.group_index is not None:
            index = _stored(m.group_index, state)
            if takes("convert_from_uint4", "g_idx"):
                added["g_idx"] = m.group_index
            else:
                order = index.argsort(stable=True)
                codes = codes[:, order]
                x = rw.aten.index_select(x, -1, rw.get_state(f"{name}.order", order))
        scales = _stored(m.scales, state).T.to(m.x.dtype).contiguous()
        zeros = torch.full_like(codes[:, : len(scales)], 2 ** (m.bits - 1))
        zeros = zeros if m.zeros is None else _stored(m.zeros, state)
        words = {"codes": pack_words(codes.T), "scale": scales, "zero_points": pack_words(zeros.T)}
        parts = [rw.get_state(f"{name}.hpu_{key}", value) for key, value in words.items()]
        result = rw.aten.matmul(x, hpu_call(rw, "convert_from_uint4", *parts, m.x.dtype, **added))
        return result if m.bias is None else rw.aten.add(result, m.bias)


def _stored(value: Any, state: Mapping[str, Any]) -> Tensor:
    return state[str(value.node.target)]


def pack_words(codes: Tensor) -> Tensor:
    """Codes [rows, columns] below 16 as int32 [rows, columns / 8], the first code in the lowest bits."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int64, device=codes.device)
    words = (codes.reshape(codes.shape[0], -1, PER_WORD).long() << shifts).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


@dataclass(frozen=True)
class HpuPacked(Pass):
    """Packed linears become `hpu::convert_from_uint4` and a product."""

    name = "hpu-packed"
    requires = frozenset({"functional", "canonical"})
    rules: ClassVar[tuple[type[Rule], ...]] = (PackedMatmul,)
