"""The key/value cache of an exported model: the tensors that one step returned, for the next one to take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers.cache_utils import Cache

Tensors = dict[str, torch.Tensor]
ROOM = 256
"""How many more tokens a cache is made longer by that is full."""


class ArtifactCache(Cache):
    """Tensors by the names of the artifact's inputs, `past_key_values.0.key` and so on.

    Args:
        tensors: Keys and values of shape (batch, heads, length, size), or states whose first dimension is the batch.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__(layers=[])
        self.tensors: Tensors = dict(tensors)

    @property
    def is_compileable(self) -> bool:
        """Never: it grows with each step."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Always: it is made from the results of a step."""
        return True

    def __len__(self) -> int:
        return len({name.split(".")[1] for name in self.tensors})

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens in the cache."""
        growing = [t for name, t in self.tensors.items() if name.endswith(".key") and ".encoder." not in name]
        return int(growing[layer_idx].shape[2]) if growing else 0

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """-1: it may grow to any length."""
        return -1

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep the rows that beam search goes on with; they are those of the same text, so an encoder's stay."""
        if len(_moved(beam_idx)):
            chosen = lambda name, t: t if ".encoder." in name else t.index_select(0, beam_idx)  # noqa: E731
            self.tensors = {name: chosen(name, tensor) for name, tensor in self.tensors.items()}

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows."""
        self.spread()
        self._change(lambda tensor: tensor[indices])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        self.spread()
        self._change(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def repeat_rows(self, back: torch.Tensor, shared: bool) -> None:
        """Take these rows for those of the batch; an encoder's stay where a program shares them among its rows."""
        kept = {name: tensor for name, tensor in self.tensors.items() if shared and ".encoder." in name}
        self._change(lambda tensor: tensor.index_select(0, back))
        self.tensors |= kept

    def spread(self) -> None:
        """Give each row of the batch its own keys and values of the encoder, where several share them."""
        rows = max((tensor.shape[0] for tensor in self.tensors.values()), default=0)
        self._change(lambda tensor: tensor.repeat_interleave(rows // tensor.shape[0], dim=0))

    def crop(self, max_length: int) -> None:
        """Forget all but the first tokens; a negative number says how many are forgotten."""
        length = self.get_seq_length()
        kept = length + max_length if max_length < 0 else min(max_length, length)
        for name, tensor in self.tensors.items():
            if name.endswith((".key", ".value")) and ".encoder." not in name:
                self.tensors[name] = tensor[:, :, :kept].contiguous()

    def _change(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.tensors = {name: function(tensor) for name, tensor in self.tensors.items()}


class RoomyCache(ArtifactCache):
    """Keys and values in memory that has room for more, which steps append to in place.

    Args:
        tensors: By name of the artifact's input, [batch, heads, room, size].
        length: How many positions are in use.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], length: int = 0) -> None:
        super().__init__(tensors)
        self.length = length

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens in the cache."""
        return self.length

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep the rows that beam search goes on with: what is in use of the rows that change."""
        if len(moved := _moved(beam_idx)):
            for tensor in self.tensors.values():
                used = tensor[:, :, : self.length]
                used[moved] = used[beam_idx[moved]]

    def reserve(self, length: int) -> None:
        """Make room for so many tokens; the memory grows in steps of `ROOM`."""
        have = min(tensor.shape[2] for tensor in self.tensors.values())
        if length > have:
            wanted = (length // ROOM + 1) * ROOM
            self._change(lambda tensor: _longer(tensor, self.length, wanted))

    def crop(self, max_length: int) -> None:
        """Forget all but the first tokens; a negative number says how many are forgotten."""
        self.length = self.length + max_length if max_length < 0 else min(max_length, self.length)


def _moved(beam_idx: torch.Tensor) -> torch.Tensor:
    """The rows that take another row's place."""
    return (beam_idx != torch.arange(len(beam_idx))).nonzero()[:, 0]


def _longer(tensor: torch.Tensor, length: int, wanted: int) -> torch.Tensor:
    """The first `length` positions of the tensor, with room for `wanted`."""
    result = tensor.new_zeros(*tensor.shape[:2], wanted, tensor.shape[3])
    result[:, :, :length] = tensor[:, :, :length]
    return result


class HeldCache(ArtifactCache):
    """A cache that is kept inside a stateful artifact; only the last step's can be gone on from.

    Args:
        artifact: The artifact, which has `restart`, `step` and `change`.
        text: Number of the text that it belongs to, from `restart`.
    """

    def __init__(self, artifact: Any, text: int) -> None:
        super().__init__({})
        self.artifact, self.text, self.length = artifact, text, 0
        self.rows: torch.Tensor | None = None

    def __len__(self) -> int:
        return len({name.split(".")[1] for name in self.artifact.variables.outputs})

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens in the cache."""
        return self.length

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep the rows that beam search goes on with; they are those of the same text, so an encoder's stay."""
        self.rows = beam_idx if self.rows is None else self.rows[beam_idx]

    def crop(self, max_length: int) -> None:
        """Forget all but the first tokens; a negative number says how many are forgotten."""
        kept = self.length + max_length if max_length < 0 else min(max_length, self.length)
        grown = lambda name, t: t if ".encoder." in name else t[:, :, :kept]  # noqa: E731
        self.artifact.change(grown)
        self.length = kept

    def _change(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.artifact.change(lambda name, tensor: function(tensor))
