"""Example inputs for one step with a key/value cache: the cache comes from a first run of the model itself."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphwright.frontends.axes import Axis, Leaves, parameter_leaves
from graphwright.frontends.cache import cache_names, register_caches
from graphwright.frontends.example import Inputs, Names
from graphwright.frontends.shim import untouched
from graphwright.frontends.tasks import is_encoder_decoder
from graphwright.ir.errors import CaptureError


def with_past(model: Any, inputs: Inputs, *, positions: bool = False, hidden: torch.Tensor | None = None) -> Inputs:
    """Inputs for the step after `inputs`: one more piece of text, and the cache that the first run returned.

    Args:
        model: A transformers model.
        inputs: From `example_inputs`.
        positions: Whether `position_ids` are an input, if the model takes them: a batch that is padded on the left
            needs them, as the model would count the padding.
        hidden: What the encoder of an encoder-decoder returns for `inputs`, where it is known: its run may be long.

    Raises:
        CaptureError: The model returns no cache.
    """
    register_caches(model)
    with untouched(model), torch.no_grad():
        first = model(**{**_with_encoded(model, inputs.values, hidden), "use_cache": True})
    cache = getattr(first, "past_key_values", None)
    if cache is None:
        raise CaptureError(
            f"{type(model).__name__} returns no past_key_values",
            why="its class has no key/value cache, or keeps its state elsewhere",
            remedies=["capture it without a cache: task=None"],
        )
    step = Inputs()
    if is_encoder_decoder(model):
        _decoder_step(step, inputs, first)
    else:
        ids = inputs.values["input_ids"][:, :-3]
        step.add("input_ids", ids, "batch", "sequence")
        mask = torch.ones(ids.shape[0], ids.shape[1] + inputs.values["input_ids"].shape[1], dtype=ids.dtype)
        step.add("attention_mask", mask.to(ids.device), "batch", "past_sequence+sequence")
        if positions and "position_ids" in inspect.signature(model.forward).parameters:
            numbers = torch.arange(mask.shape[1] - ids.shape[1], mask.shape[1]).expand_as(ids).contiguous()
            step.add("position_ids", numbers.to(ids.device), "batch", "sequence")
    step.add("past_key_values", cache)
    step.add("use_cache", True)
    return step


def decoder_start(model: Any, inputs: Inputs) -> Inputs:
    """Inputs for the decoder's first step, as `graphwright.frontends.faces.decoder_face` takes them."""
    names = (model.main_input_name, "attention_mask")
    with untouched(model), torch.no_grad():
        hidden = model.get_encoder()(**{name: inputs.values[name] for name in names if name in inputs.values})
    start = Inputs()
    start.add("input_ids", inputs.values["decoder_input_ids"], "batch", "decoder_sequence")
    start.add("encoder_hidden_states", hidden.last_hidden_state, "batch", "sequence")
    if "attention_mask" in inputs.values:
        start.add("encoder_attention_mask", inputs.values["attention_mask"], "batch", "sequence")
    return start


def _with_encoded(model: Any, values: dict[str, Any], hidden: torch.Tensor | None) -> dict[str, Any]:
    """The values with the encoder's result in the place of its input, where it is known."""
    if hidden is None:
        return values
    from transformers.modeling_outputs import BaseModelOutput

    rest = {name: value for name, value in values.items() if name != model.main_input_name}
    return {**rest, "encoder_outputs": BaseModelOutput(last_hidden_state=hidden)}


def _decoder_step(step: Inputs, inputs: Inputs, first: Any) -> None:
    """A decoder's step needs the encoder's result, not the encoder's input."""
    from transformers.modeling_outputs import BaseModelOutput

    step.add("encoder_outputs", BaseModelOutput(last_hidden_state=first.encoder_last_hidden_state), "batch", "sequence")
    if "attention_mask" in inputs.values:
        step.add("attention_mask", inputs.values["attention_mask"], "batch", "sequence")
    step.add("decoder_input_ids", inputs.values["decoder_input_ids"][:, :-3], "batch", "decoder_sequence")


def suggested_axes(inputs: Inputs) -> Leaves:
    """One mapping for each leaf of the inputs."""
    axes: Leaves = []
    for name, value in inputs.values.items():
        if name == "past_key_values":
            axes += [_cache_axes(leaf, tensor) for leaf, tensor in zip(cache_names(value), _leaves(value), strict=True)]
        else:
            axes += [_axes(inputs.names[name], leaf) for _, leaf in parameter_leaves([], (), {name: value})]
    return axes


def _leaves(value: Any) -> list[Any]:
    return pytree.tree_leaves(value)


def _axes(names: Names, leaf: Any) -> dict[int, Axis]:
    if not isinstance(leaf, torch.Tensor):
        return {}
    return {i: Axis(name, shared=True) for i, name in enumerate(names) if name is not None}


def _cache_axes(name: str, leaf: Any) -> dict[int, Axis]:
    """Batch and length of keys and values; the batch alone of recurrent states."""
    if not isinstance(leaf, torch.Tensor) or leaf.dim() == 0:
        return {}
    axes = {0: Axis("batch", shared=True)}
    if name.endswith((".key", ".value")) and leaf.dim() == 4:
        axes[2] = Axis("sequence" if ".encoder." in name else "past_sequence", shared=True)
    elif name.endswith("indexer_keys"):
        axes[1] = Axis("past_sequence", shared=True)
    return axes
