"""Operators of Intel Gaudi's PyTorch bridge: what is published of them, and how to call what is installed.

Needs torch only, and lies beside every exported module. Where `habana_frameworks` is installed, its operators are used;
newer releases added arguments to the published ones, so `find` reads the installed schema and fits the call to it.
Elsewhere the published schemas are registered here with reference kernels for the CPU, made of ATen ops, so that
modules run and can be compared on any machine.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, relu, silu

NEUTRAL: dict[str, Any] = {"window_size": (-1, -1), "return_dropout_mask": False, "return_attn_probs": False}
"""Values of arguments that were added without a default, by name; an optional one is left out."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": silu, "gelu": gelu, "relu": relu}
"""Activations of `mixture_of_experts`."""

SCHEMAS: dict[str, str] = {}
"""Published schemas by name, `base` or `base.overload`."""

_LIBRARY = torch.library.Library("hpu", "FRAGMENT")
_KERNELS: dict[str, Callable[..., Any]] = {}


class SchemaError(RuntimeError):
    """An installed operator cannot be called as the published one."""


# ---- calls ---------------------------------------------------------------------------------------


def find(name: str) -> Callable[..., Any]:
    """The operator `name`, to be called with the positional arguments of its published schema.

    Arguments that newer releases added are passed as keywords.

    Raises:
        SchemaError: The installed operator asks for something that no neutral value is known for.
    """
    operator = overload(name)
    if _places(name) == tuple((i, None) for i in range(len(_places(name)))):
        return operator

    def call(*arguments: Any, **added: Any) -> Any:
        return operator(*fitted(name, arguments, added))

    return call


def fitted(name: str, arguments: Sequence[Any], added: Mapping[str, Any] | None = None) -> list[Any]:
    """Positional arguments of the published schema, and added ones by name, as the installed operator takes them.

    Raises:
        SchemaError: See `find`.
    """
    named = zip(_places(name), overload(name)._schema.arguments, strict=True)
    given = added or {}
    return [given.get(one.name, value) if i is None else arguments[i] for (i, value), one in named]


def unfitted(name: str, arguments: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """The opposite of `fitted`; added arguments that change nothing are left out."""
    found: dict[int, Any] = {}
    added: dict[str, Any] = {}
    for (i, value), one, given in zip(_places(name), overload(name)._schema.arguments, arguments, strict=False):
        if i is not None:
            found[i] = given
        elif given is not value and given != value:
            added[one.name] = given
    return [found[i] for i in sorted(found)], added


def takes(name: str, argument: str) -> bool:
    """Whether the installed operator has an argument of this name."""
    return any(one.name == argument for one in overload(name)._schema.arguments)


def overload(name: str) -> Any:
    """The installed overload.

    Raises:
        SchemaError: There is none.
    """
    base, _, kind = name.partition(".")
    packet = getattr(torch.ops.hpu, base, None)
    if packet is None or (kind or "default") not in packet.overloads():
        raise SchemaError(f"the installed bridge has no operator hpu::{name}")
    return getattr(packet, kind or "default")


@cache
def _places(name: str) -> tuple[tuple[int | None, Any], ...]:
    """For each installed argument its place among the published ones, or None and a value."""
    return places(torch._C.parse_schema(f"hpu::{SCHEMAS[name]}"), overload(name)._schema)


def places(published: Any, installed: Any) -> tuple[tuple[int | None, Any], ...]:
    """For each argument of one schema its place in another, or None and the value to pass.

    An argument of another name is the same one if place and type are.

    Raises:
        SchemaError: An argument has no place, or no value is known.
    """
    known = {argument.name: i for i, argument in enumerate(published.arguments)}
    names = {argument.name for argument in installed.arguments}
    found: list[tuple[int | None, Any]] = []
    for i, argument in enumerate(installed.arguments):
        before = published.arguments[i] if i < len(published.arguments) else None
        if argument.name in known:
            found.append((known[argument.name], None))
        elif before is not None and before.name not in names and str(before.type) == str(argument.type):
            found.append((i, None))
        else:
            found.append((None, _neutral(argument, installed)))
    lost = [known[name] for name in known if known[name] not in {i for i, _ in found}]
    if lost:
        raise SchemaError(f"{installed} does not take '{published.arguments[lost[0]].name}'")
    return tuple(found)


def _neutral(argument: Any, schema: Any) -> Any:
    if argument.has_default_value():
        return argument.default_value
    if str(argument.type).startswith("Optional"):
        return None
    if argument.name in NEUTRAL:
        return NEUTRAL[argument.name]
    raise SchemaError(f"'{argument.name}' of {schema} is new, and no value is known that changes nothing")


# ---- registration --------------------------------------------------------------------------------


def published(schema: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that makes a function the reference kernel of a published operator."""

    def keep(kernel: Callable[..., Any]) -> Callable[..., Any]:
        name = schema.partition("(")[0]
        SCHEMAS[name], _KERNELS[name] = schema, kernel
        return kernel

    return keep


def is_vendor() -> bool:
    """Whether Gaudi's own PyTorch bridge is installed."""
    return importlib.util.find_spec("habana_frameworks") is not None


def install() -> None:
    """Import the vendor's bridge where there is one, and register what it does not have for the CPU."""
    if is_vendor():
        importlib.import_module("habana_frameworks.torch.core")
    for name, kernel in _KERNELS.items():
        try:
            overload(name)
        except SchemaError:
            if is_vendor():
                continue  # an operator that this release lacks must not seem to be there
            _LIBRARY.define(SCHEMAS[name])
            _LIBRARY.impl(name, kernel, "CPU")
            torch.library.register_fake(f"hpu::{name}", kernel, lib=_LIBRARY)


# ---- reference kernels ---------------------------------------------------------------------------


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


install()
