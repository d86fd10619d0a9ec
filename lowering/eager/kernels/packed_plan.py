"""Plans of packed tokens for a fixed number of them: nothing is read back from the GPU, so a CUDA graph can hold them.

The tokens are those that `graphwright::token_plan` chooses; after them come others, copies of the first token of the
batch, that belong to no sequence.
"""

from __future__ import annotations

import math
from importlib.util import find_spec

import torch
from torch import Tensor

Plan = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
MAX_WIDTH = 8192


def chosen_tokens(keep: Tensor, first: bool) -> Tensor:
    """[batch, length], boolean: which tokens are computed; `first` as in `graphwright::token_plan`."""
    if not first:
        return keep
    chosen = keep | ~keep.any(1, keepdim=True)
    chosen[:, :1] = True
    return chosen


def packed_plan(keep: Tensor, size: int, first: bool) -> Plan:
    """The plan for at most `size` tokens.

    Args:
        keep: [batch, length], boolean: which tokens are real.
        size: Number of tokens to compute.
        first: Compute the first token of each row even where it is padding.

    Returns:
        `tokens`, `offsets`, `keys`, `key_offsets` as of `graphwright::token_plan`, and `sources` [batch * length]:
        which of the tokens stands at each position, -1 for none.
    """
    if keep.is_cuda and find_spec("triton") is not None:
        from graphwright.lowering.eager.kernels.packed_plan_triton import launch

        return launch(keep, size, first)
    return reference(keep, size, first)


def reference(keep: Tensor, size: int, first: bool) -> Plan:
    """The same by ATen ops."""
    chosen = chosen_tokens(keep, first)
    tokens, count = _positions(chosen.flatten(), size)
    real = keep.flatten().index_select(0, tokens) & (torch.arange(size, device=keep.device) < count)
    keys, _ = _positions(real, size)
    sources = tokens.new_full([keep.numel() + 1], -1)
    sources[torch.where(real, tokens, keep.numel())] = torch.arange(size, device=keep.device)
    return tokens, _offsets(chosen), keys, _offsets(keep), sources[:-1]


def _positions(flags: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """[size]: where `flags` [n] is true, ascending, then zeros; and how many there are."""
    ranks = flags.cumsum(0)
    into = torch.where(flags, ranks - 1, size).clamp(max=size)
    found = torch.zeros(size + 1, dtype=torch.int64, device=flags.device)
    found.scatter_(0, into, torch.arange(flags.numel(), device=flags.device))
    return found[:size], ranks[-1]


def _offsets(chosen: Tensor) -> Tensor:
    counts = chosen.sum(1, dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return torch.nn.functional.pad(counts, (1, 0))


def token_sources(tokens: Tensor, keys: Tensor, size: int) -> Tensor:
    """[size]: which of the tokens stands at each of `size` positions of a batch, -1 for none."""
    return tokens.new_full([size], -1).index_copy_(0, tokens.index_select(0, keys), keys)


def unpack_rows(x: Tensor, sources: Tensor, batch: int, length: int) -> Tensor:
    """[1, tokens, ...] -> [batch, length, ...]: at each position the token that stands there, or zero."""
    rows = x.squeeze(0)
    width = math.prod(rows.shape[1:])
    if x.is_cuda and x.is_floating_point() and width <= MAX_WIDTH and find_spec("triton") is not None:
        from graphwright.lowering.eager.kernels.packed_plan_triton import gather

        return gather(rows, sources).unflatten(0, [batch, length])
    padded = torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])])  # so that -1 is a row of zeros
    return padded[sources].unflatten(0, [batch, length])
