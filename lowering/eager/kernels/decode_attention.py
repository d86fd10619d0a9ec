"""`graphwright::decode_attention`: one new token per sequence attends to a static cache, which gets its key and value.

Rotation of query and key, the writes to the cache and the attention are one kernel on GPUs with Triton. Only the slots
in use are read. Elsewhere the reference runs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphwright.ir import library as _library  # noqa: F401 - defines torch.ops.graphwright.rotary_embedding

_LIBRARY = torch.library.Library("graphwright", "FRAGMENT")
MAX_WIDTH = 256

_LIBRARY.define(
    "decode_attention(Tensor(a!) keys, Tensor(b!) values, Tensor query, Tensor key, Tensor value, Tensor position,"
    " Tensor? cos=None, Tensor? sin=None, Tensor? mask=None, *, float scale) -> Tensor"
)


def decode_attention(
    keys: Tensor,
    values: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    position: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    scale: float,
) -> Tensor:
    """Write the new key and value to slot `position`, then attend to the slots up to it.

    Args:
        keys: [batch, key heads, capacity, width]; written to.
        values: As `keys`.
        query: [batch, heads, 1, width].
        key: [batch, key heads, 1, width].
        value: As `key`.
        position: [1], int64: how many slots are in use.
        cos: Rotate query and key by these angles, [batch or 1, 1, 1, width]; None for no rotation.
        sin: As `cos`.
        mask: [batch or 1, 1, 1, capacity], true where a slot is visible; it hides those after `position`.
        scale: Factor of the scores.

    Returns:
        [batch, heads, 1, width].
    """
    if query.is_cuda and keys.is_contiguous() and values.is_contiguous():
        from graphwright.lowering.eager.kernels.decode_attention_triton import launch

        return launch(keys, values, query, key, value, position, cos, sin, mask, scale)
    return reference(keys, values, query, key, value, position, cos, sin, mask, scale=scale)


def reference(
    keys: Tensor,
    values: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    position: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    scale: float,
) -> Tensor:
    """The same by ATen ops."""
    if cos is not None:
        query = torch.ops.graphwright.rotary_embedding(query, cos, sin)
        key = torch.ops.graphwright.rotary_embedding(key, cos, sin)
    keys.index_copy_(2, position, key)
    values.index_copy_(2, position, value)
    if mask is None:
        mask = (torch.arange(keys.shape[2], device=keys.device) <= position).view(1, 1, 1, -1)
    return torch.nn.functional.scaled_dot_product_attention(
        query, keys, values, mask, scale=scale, enable_gqa=query.shape[1] != keys.shape[1]
    )


def _fake(keys: Tensor, values: Tensor, query: Tensor, *_: object, scale: float) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


_LIBRARY.impl("decode_attention", decode_attention, "CompositeExplicitAutograd")
torch.library.register_fake("graphwright::decode_attention", _fake, lib=_LIBRARY)
