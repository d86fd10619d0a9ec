"""Prompts of nearly the same length as one kind of call: they are padded on the left to a common length.

On a GPU each length is recorded by itself, so prompts of any length would each be launched kernel by kernel at first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from graphwright.runtime.compare import first_difference

STEP = 64
LONGEST = 1024  # longer prompts take the GPU longer than their kernels take to launch

prefilling: ContextVar[bool] = ContextVar("prefilling", default=False)
_TENSORS = frozenset({"input_ids", "attention_mask", "position_ids"})


def padded_prompt(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], int] | None:
    """The arguments of `forward` for a prompt with padding on the left, and how much of it.

    Args:
        arguments: What `generate` passes to `forward` for a prompt.

    Returns:
        None where the prompt stays as it is: not on a GPU, too long, or beside arguments that padding would change.
    """
    ids, mask, positions = (arguments.get(name) for name in ("input_ids", "attention_mask", "position_ids"))
    if not isinstance(ids, Tensor) or ids.dim() != 2 or not 1 < ids.shape[1] <= LONGEST or not pays(ids):
        return None
    others = [value for name, value in arguments.items() if name not in _TENSORS]
    if any(isinstance(value, (Tensor, list, tuple, dict)) for value in others) or torch.is_grad_enabled():
        return None
    mask = torch.ones_like(ids) if mask is None else mask
    if mask.shape != ids.shape or not is_empty(arguments.get("past_key_values")):
        return None
    if positions is None:
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    elif positions.shape != ids.shape:
        return None
    pad = -ids.shape[1] % STEP
    tensors = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return {**arguments, **{k: torch.nn.functional.pad(t, (pad, 0)) for k, t in tensors.items()}}, pad


def pays(ids: Tensor) -> bool:
    """Whether launching kernels is what a prompt waits for."""
    return ids.is_cuda


def is_empty(cache: Any) -> bool:
    """Whether a cache is a plain one without any token, all layers of which keep every token."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    if type(cache) is not DynamicCache or cache.offloading or cache.get_seq_length():
        return False
    kinds: set[Any] = {type(layer) for layer in cache.layers} or {cache.layer_class_to_replicate}
    return kinds == {DynamicLayer}


def without_padding(result: Any, pad: int) -> Any:
    """A model's result, and the cache in it, without what was computed for padding."""
    if pad:
        for layer in result.past_key_values.layers:
            layer.keys, layer.values = layer.keys[:, :, pad:], layer.values[:, :, pad:]
    return result


class Prefill:
    """Serves the prompts of one model.

    The first padded prompt is compared with the prompt as it is; where padding changes the result, none is padded.

    Args:
        serve: Serves a call of `forward` with keyword arguments.
    """

    def __init__(self, serve: Callable[..., Any]) -> None:
        self.serve = serve
        self._is_exact: bool | None = None

    def __call__(self, model: Any, arguments: Mapping[str, Any]) -> Any:
        """Serve one prompt."""
        found = padded_prompt(arguments) if self._is_exact is not False else None
        keeps_last = arguments.get("logits_to_keep") == 1  # the only logits that padding does not move
        if found is None or not keeps_last:
            return self.serve(model, (), arguments)
        padded, pad = found
        if self._is_exact is None:
            self._is_exact = self._agrees(model, arguments, padded, pad)
            return self(model, arguments)
        return without_padding(self.serve(model, (), padded), pad)

    def _agrees(self, model: Any, arguments: Mapping[str, Any], padded: Mapping[str, Any], pad: int) -> bool:
        """Whether the original forward gives the same logits and cache for both."""
        keep = padded["attention_mask"][:, pad:].bool()
        expected, actual = (_run(model, given) for given in (arguments, padded))
        return first_difference(_tensors(expected, keep), _tensors(without_padding(actual, pad), keep)) is None


def _run(model: Any, arguments: Mapping[str, Any]) -> Any:
    """The original forward on a cache of its own."""
    cache = type(arguments["past_key_values"])(config=model.config)
    return model._graphwright_original(**{**arguments, "past_key_values": cache})


def _tensors(result: Any, keep: Tensor) -> list[Tensor]:
    """Last logits, and the keys and values of real tokens."""
    pairs = [pair for layer in result.past_key_values.layers for pair in (layer.keys, layer.values)]
    return [result.logits[:, -1], *(pair.transpose(1, 2)[keep] for pair in pairs)]
