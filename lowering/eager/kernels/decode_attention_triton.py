# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def"
"""The Triton kernel of `graphwright::decode_attention`: the slots are split among programs, the last one combines."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from graphwright.lowering.eager.kernels.gemv_triton import has_dependent_launch

_scratch: dict[Any, tuple[Tensor, Tensor]] = {}


@triton.jit
def _rotated(ptr, stride, heads, cos, sin, D: tl.constexpr, ROTATE: tl.constexpr):
    """[heads, D] in float32, after the roundings of the rotation; `ptr` at the first head."""
    dims = tl.arange(0, D)
    raw = tl.load(ptr + heads[:, None] * stride + dims[None, :])
    x = raw.to(tl.float32)
    if ROTATE:
        half: tl.constexpr = D // 2
        turned = tl.load(ptr + heads[:, None] * stride + ((dims + half) % D)[None, :]).to(tl.float32)
        turned = tl.where((dims < half)[None, :], -turned, turned)
        c = tl.load(cos + dims).to(tl.float32)[None, :]
        s = tl.load(sin + dims).to(tl.float32)[None, :]
        x = (x * c).to(raw.dtype).to(tl.float32) + (turned * s).to(raw.dtype).to(tl.float32)
        x = x.to(raw.dtype).to(tl.float32)
    return x


@triton.jit
def _decode(
    keys, values, query, key, value, position, cos, sin, mask, out, partial, counter,
    capacity, q_row, q_head, k_row, k_head, v_row, v_head, angle_row, mask_row, scale,
    HEADS: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, SLOTS: tl.constexpr,
    SPLITS: tl.constexpr, ROTATE: tl.constexpr, HAS_MASK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
    pair = tl.program_id(0)
    split = tl.program_id(1)
    batch = pair // HEADS
    head = pair % HEADS
    dims = tl.arange(0, D)
    group = tl.arange(0, GP)
    heads = tl.minimum(group, G - 1)
    own = keys + pair.to(tl.int64) * capacity * D
    own_values = values + pair.to(tl.int64) * capacity * D
    # What earlier steps wrote may be read before the kernel before this one has ended.
    length = tl.load(position)
    span = tl.cdiv(tl.cdiv(length, SPLITS), SLOTS) * SLOTS
    begin = split * span
    end = tl.minimum(begin + span, length)
    slots = begin + tl.arange(0, SLOTS)
    used = slots < end
    k = tl.load(own + slots[:, None] * D + dims[None, :], mask=used[:, None], other=0.0)
    v = tl.load(own_values + slots[:, None] * D + dims[None, :], mask=used[:, None], other=0.0)
    if PDL:
        gdc_wait()
    if HAS_MASK:
        used = used & (tl.load(mask + batch * mask_row + slots, mask=used, other=0) != 0)
    angle = batch * angle_row
    q = _rotated(query + batch * q_row + head * G * q_head, q_head, heads, cos + angle, sin + angle, D, ROTATE)
    largest = tl.full([GP], -1e30, dtype=tl.float32)
    total = tl.zeros([GP], dtype=tl.float32)
    acc = tl.zeros([GP, D], dtype=tl.float32)
    if split == 0:
        one = tl.zeros([1], dtype=tl.int32)
        new = _rotated(key + batch * k_row + head * k_head, k_head, one, cos + angle, sin + angle, D, ROTATE)
        new_value = tl.load(value + batch * v_row + head * v_head + dims)
        tl.store(own + (length * D + dims)[None, :], new.to(keys.dtype.element_ty))
        tl.store(own_values + length * D + dims, new_value)
        largest = tl.sum(q * new, 1) * scale
        total = tl.full([GP], 1.0, dtype=tl.float32)
        acc = tl.zeros([GP, D], dtype=tl.float32) + new_value.to(tl.float32)[None, :]
    for start in range(begin, end, SLOTS):
        scores = tl.sum(q[:, None, :] * k.to(tl.float32)[None, :, :], 2) * scale
        scores = tl.where(used[None, :], scores, -1e30)
        peak = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.where(used[None, :], tl.exp(scores - peak[:, None]), 0.0)
        shrink = tl.exp(largest - peak)
        total = total * shrink + tl.sum(weights, 1)
        acc = acc * shrink[:, None] + tl.sum(weights[:, :, None] * v.to(tl.float32)[None, :, :], 1)
        largest = peak
        slots = start + SLOTS + tl.arange(0, SLOTS)
        used = slots < end
        if HAS_MASK:
            used = used & (tl.load(mask + batch * mask_row + slots, mask=used, other=0) != 0)
        k = tl.load(own + slots[:, None] * D + dims[None, :], mask=used[:, None], other=0.0)
        v = tl.load(own_values + slots[:, None] * D + dims[None, :], mask=used[:, None], other=0.0)
    place = out + (batch * HEADS * G + head * G) * D + group[:, None] * D + dims[None, :]
    real = (group < G)[:, None]
    if SPLITS == 1:
        tl.store(place, (acc / total[:, None]).to(out.dtype.element_ty), mask=real)
    else:
        # The program that arrives last at the counter combines the parts of all.
        size: tl.constexpr = GP * (D + 2)
        mine = partial + (pair * SPLITS + split) * size
        tl.store(mine + group[:, None] * D + dims[None, :], acc)
        tl.store(mine + GP * D + group, largest)
        tl.store(mine + GP * D + GP + group, total)
        tl.debug_barrier()
        arrived = tl.atomic_add(counter + pair, 1, sem="acq_rel", scope="gpu")
        if arrived == SPLITS - 1:
            theirs = partial + (pair * SPLITS + tl.arange(0, SPLITS)) * size
            high = tl.load(theirs[:, None] + GP * D + group[None, :], cache_modifier=".cg")
            weight = tl.load(theirs[:, None] + GP * D + GP + group[None, :], cache_modifier=".cg")
            inner = (group[:, None] * D + dims[None, :])[None, :, :]
            parts = tl.load(theirs[:, None, None] + inner, cache_modifier=".cg")
            factor = tl.exp(high - tl.max(high, 0)[None, :])
            total = tl.sum(weight * factor, 0)
            acc = tl.sum(parts * factor[:, :, None], 0)
            tl.store(place, (acc / total[:, None]).to(out.dtype.element_ty), mask=real)
            tl.store(counter + pair, 0)


def split_sizes(capacity: int, pairs: int, width: int, groups: int) -> tuple[int, int]:
    """(programs for each key head, slots that a program reads at once), both powers of two."""
    slots = max(16, min(64, 8192 // (width * groups)))
    most = max(1, min(32, 8192 // (width * groups), 264 // pairs))
    wanted = min(most, triton.cdiv(capacity, slots))
    return 1 << (wanted.bit_length() - 1), slots


def _scratch_of(device: torch.device, pairs: int, splits: int, size: int) -> tuple[Tensor, Tensor]:
    """Partial results, and counters that are zero between launches."""
    key = (device, pairs, splits, size)
    if key not in _scratch:
        partial = torch.empty(pairs * splits * size, dtype=torch.float32, device=device)
        _scratch[key] = (partial, torch.zeros(pairs, dtype=torch.int32, device=device))
    return _scratch[key]


def launch(
    keys: Tensor,
    values: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    position: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    mask: Tensor | None,
    scale: float,
) -> Tensor:
    """Run the kernel; the arguments are those of `graphwright::decode_attention`."""
    batch, heads, capacity, width = keys.shape
    groups = query.shape[1] // heads
    padded = triton.next_power_of_2(groups)
    pairs = batch * heads
    splits, slots = split_sizes(capacity, pairs, width, padded)
    partial, counter = _scratch_of(keys.device, pairs, splits, padded * (width + 2))
    out = query.new_empty(query.shape)
    dependent = has_dependent_launch(keys.device.index or 0)
    angles = cos if cos is not None else query
    rows = lambda tensor: 0 if tensor.shape[0] == 1 else tensor.stride(0)  # noqa: E731
    _decode[(pairs, splits)](
        keys, values, query, key, value, position, angles, sin if sin is not None else query,
        mask.view(torch.uint8) if mask is not None else query, out, partial, counter,
        capacity, query.stride(0), query.stride(1), key.stride(0), key.stride(1), value.stride(0), value.stride(1),
        rows(angles), rows(mask) if mask is not None else 0, scale,
        HEADS=heads, G=groups, GP=padded, D=width, SLOTS=slots, SPLITS=splits, ROTATE=cos is not None,
        HAS_MASK=mask is not None, PDL=dependent, num_warps=4, launch_pdl=dependent,
    )  # fmt: skip
    return out
