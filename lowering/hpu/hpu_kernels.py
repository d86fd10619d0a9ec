"""Schemas that are published of Gaudi's PyTorch operators, and reference kernels for the CPU, made of ATen ops.

Needs torch only, and lies beside every exported module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, relu, silu

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": silu, "gelu": gelu, "relu": relu}
"""Activations of `mixture_of_experts`."""

SCHEMAS: dict[str, str] = {}
"""Published schemas by name, `base` or `base.overload`."""

KERNELS: dict[str, Callable[..., Any]] = {}
"""Reference kernels by the same names."""


def published(schema: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that makes a function the reference kernel of a published operator."""

    def keep(kernel: Callable[..., Any]) -> Callable[..., Any]:
        name = schema.partition("(")[0]
        SCHEMAS[name], KERNELS[name] = schema, kernel
        return kernel

    return keep


def _wide(x: Tensor) -> Tensor:
    """Half precision is computed in float32."""
    return x if x.dtype == torch.float64 else x.float()


@published(
    "sdpa_recomp_fwd(Tensor q, Tensor k, Tensor v, Tensor? attention_mask, float p, float scale, bool is_causal,"
    " bool requires_backward, str softmax_mode, Tensor? valid_seq_len, str seq_padding_type)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
def sdpa_recomp_fwd(
    q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None, p: float, scale: float, is_causal: bool,
    requires_backward: bool, softmax_mode: str, valid_seq_len: Tensor | None, seq_padding_type: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Attention, and the statistics of its softmax: row maxima, inverse row sums, random seed.

    A mask of numbers is added, a boolean one keeps where true. `valid_seq_len` [batch] counts the keys that are real,
    on the side that `seq_padding_type` does not name.
    """
    if is_causal and attention_mask is not None:
        raise ValueError("sdpa_recomp_fwd takes a mask or is_causal, not both")
    if valid_seq_len is not None and not is_causal:
        raise ValueError("sdpa_recomp_fwd takes valid_seq_len with is_causal only")
    if p:
        raise ValueError("the reference kernel of sdpa_recomp_fwd has no dropout")
    scores = torch.matmul(_wide(q), _wide(k).mT) * scale
    rows, columns = scores.shape[-2], scores.shape[-1]
    low = torch.finfo(scores.dtype).min
    if is_causal:
        scores = scores.masked_fill(~torch.ones(rows, columns, dtype=torch.bool, device=q.device).tril(), low)
    if valid_seq_len is not None:
        place = torch.arange(columns, device=q.device)
        length = valid_seq_len.reshape(-1, *[1] * (scores.dim() - 1))
        real = place >= columns - length if seq_padding_type == "left" else place < length
        scores = scores.masked_fill(~real, low)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, low)
    elif attention_mask is not None:
        scores = scores + attention_mask
    top = scores.amax(-1, keepdim=True)
    weights = torch.exp(scores - top)
    inverse = 1 / weights.sum(-1, keepdim=True)
    result = torch.matmul(weights * inverse, _wide(v)).to(q.dtype)
    return result, top.to(q.dtype), inverse, torch.empty(1, dtype=torch.int32, device=q.device)


@published("rms_norm(Tensor data_in, Tensor gamma, float epsilon) -> (Tensor, Tensor)")
def rms_norm(data_in: Tensor, gamma: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """`x / rms(x) * gamma` over the last dimension, and `1 / rms(x)`."""
    x = _wide(data_in)
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
    return (x * inverse * gamma).to(data_in.dtype), inverse


@published(
    "rotary_pos_embedding(Tensor input, Tensor sin, Tensor cos, Tensor? position_ids, int offset, int mode) -> Tensor"
)
def rotary_pos_embedding(
    input: Tensor, sin: Tensor, cos: Tensor, position_ids: Tensor | None, offset: int, mode: int
) -> Tensor:
    """Rotate pairs of features: mode 0 pairs `i` with `i + width / 2`, mode 1 pairs `2 i` with `2 i + 1`."""
    if position_ids is not None:
        sin, cos = (part.squeeze()[position_ids].unsqueeze(1) for part in (sin, cos))
    if mode:
        turned = torch.stack([-input[..., 1::2], input[..., ::2]], dim=-1).flatten(-2)
    else:
        half = input.shape[-1] // 2
        turned = torch.cat([-input[..., half:], input[..., :half]], dim=-1)
    return input * cos + turned * sin


@published(
    "mixture_of_experts(Tensor hidden_states, Tensor expert_routing_table, Tensor router_weights, Tensor[] w1,"
    " Tensor[] w2, Tensor[] w3, bool permuted_weights, str activation, int experts_min, int experts_max) -> Tensor"
)
def mixture_of_experts(
    hidden_states: Tensor, expert_routing_table: Tensor, router_weights: Tensor, w1: list[Tensor], w2: list[Tensor],
    w3: list[Tensor], permuted_weights: bool, activation: str, experts_min: int, experts_max: int,
) -> Tensor:  # fmt: skip
    """`sum over the chosen experts of weight * (act(x @ w1) * (x @ w2)) @ w3`.

    Args:
        hidden_states: [tokens, width].
        expert_routing_table: [tokens, chosen], numbers of experts.
        router_weights: [tokens, chosen].
        w1: For each expert, [inner, width] with `permuted_weights`, else [width, inner].
        w2: As `w1`.
        w3: For each expert, [width, inner] with `permuted_weights`, else [inner, width].
        permuted_weights: The weights are as in `torch.nn.Linear`.
        activation: One of `ACTIVATIONS`.
        experts_min: Number of the first expert.
        experts_max: Number of the last expert.
    """
    result = torch.zeros_like(hidden_states)
    for number, parts in zip(range(experts_min, experts_max + 1), zip(w1, w2, w3, strict=True), strict=True):
        gate, up, down = (part.mT if permuted_weights else part for part in parts)
        share = (router_weights * (expert_routing_table == number)).sum(-1, keepdim=True)
        inner = ACTIVATIONS[activation](hidden_states @ gate) * (hidden_states @ up)
        result = result + share.to(result.dtype) * (inner @ down)
    return result


@published(
    "mixture_of_experts.fused_weights(Tensor hidden_states, Tensor expert_routing_table, Tensor router_weights,"
    " Tensor[] w12, Tensor[] w3, bool permuted_weights, str activation, int experts_min, int experts_max) -> Tensor"
)
def fused_mixture_of_experts(
    hidden_states: Tensor, expert_routing_table: Tensor, router_weights: Tensor, w12: list[Tensor], w3: list[Tensor],
    permuted_weights: bool, activation: str, experts_min: int, experts_max: int,
) -> Tensor:  # fmt: skip
    """As `mixture_of_experts`, with `w1` and `w2` one after the other in `w12`."""
    halves = [part.chunk(2, 0 if permuted_weights else 1) for part in w12]
    w1, w2 = ([half[i] for half in halves] for i in (0, 1))
    routing = (hidden_states, expert_routing_table, router_weights)
    return mixture_of_experts(*routing, w1, w2, w3, permuted_weights, activation, experts_min, experts_max)


@published("convert_from_uint4(Tensor input, Tensor scale, Tensor? zero_point, ScalarType out_dtype) -> Tensor")
def convert_from_uint4(input: Tensor, scale: Tensor, zero_point: Tensor | None, out_dtype: torch.dtype) -> Tensor:
    """The weight [in, out] of packed codes: int32 [in, out / 8], the first code in the lowest bits.

    Args:
        input: The codes.
        scale: [groups, out].
        zero_point: The codes of the zeros, int32 [groups, out / 8]; None for 0.
        out_dtype: Type of the weight.
    """
    codes, group = _codes(input), input.shape[0] // scale.shape[0]
    zeros = torch.zeros_like(scale) if zero_point is None else _codes(zero_point)
    parts = [part.to(scale.dtype).repeat_interleave(group, 0) for part in (zeros, scale)]
    return ((codes.to(scale.dtype) - parts[0]) * parts[1]).to(out_dtype)


def _codes(packed: Tensor) -> Tensor:
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=packed.device)
    return ((packed.unsqueeze(-1) >> shifts) & 15).flatten(-2)


@published(
    "cast_to_fp8_v2(Tensor input, Tensor? scale=None, bool stochastic_rounding=False, bool is_amax=False,"
    " ScalarType dtype=None, int[]? scale_shape=None) -> (Tensor, Tensor)"
)
def cast_to_fp8_v2(
    input: Tensor, scale: Tensor | None = None, stochastic_rounding: bool = False, is_amax: bool = False,
    dtype: torch.dtype = torch.float8_e5m2, scale_shape: list[int] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`input * scale` in 8 bits, rounded to nearest, and the largest absolute value of the input if asked for."""
    scaled = _wide(input) if scale is None else _wide(input) * scale
    top = torch.finfo(dtype).max
    return scaled.clamp(-top, top).to(dtype), input.abs().amax() if is_amax else input.new_empty(0)


@published(
    "fp8_gemm_v2(Tensor A, bool trans_A, Tensor B, bool trans_B, Tensor? D, ScalarType out_dtype,"
    " Tensor? A_scale_inv=None, Tensor? B_scale_inv=None, Tensor? bias=None, bool accumulate=False,"
    " int[]? B_scale_shape=None) -> Tensor"
)
def fp8_gemm_v2(
    A: Tensor, trans_A: bool, B: Tensor, trans_B: bool, D: Tensor | None, out_dtype: torch.dtype,
    A_scale_inv: Tensor | None = None, B_scale_inv: Tensor | None = None, bias: Tensor | None = None,
    accumulate: bool = False, B_scale_shape: list[int] | None = None,
) -> Tensor:  # fmt: skip
    """`(A * A_scale_inv) @ (B * B_scale_inv) + bias`, with a scale of B for all or for each column."""
    left, right = (A.float().mT if trans_A else A.float()), (B.float().mT if trans_B else B.float())
    result = torch.matmul(left, right)
    for scale in (A_scale_inv, B_scale_inv):
        result = result if scale is None else result * scale.float()
    result = result if bias is None else result + bias
    return (result + D if accumulate and D is not None else result).to(out_dtype)
