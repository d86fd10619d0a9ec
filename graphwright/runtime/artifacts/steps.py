"""Calls of the parts of an exported model by name: what is not given is made up as transformers would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from graphwright.ir.errors import InputError
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.dims import evaluate
from graphwright.lowering.interface import Port
from graphwright.runtime.artifacts.cache import ArtifactCache, HeldCache, RoomyCache

PAST, PRESENT = "past_key_values.", "present."
Tensors = dict[str, torch.Tensor]


def known(artifact: Artifact, inputs: Mapping[str, Any]) -> Tensors:
    """The given tensors that the artifact takes, in its element types."""
    ports = {port.name: port for port in artifact.interface.inputs}
    return {
        name: value.to(ports[name].torch_dtype())
        for name, value in inputs.items()
        if name in ports and isinstance(value, torch.Tensor)
    }


def decode(artifact: Artifact, inputs: Mapping[str, Any], cache: ArtifactCache | None) -> tuple[Tensors, Any]:
    """One step: outputs by name, and the cache for the next step (None where the artifact has none).

    Args:
        artifact: A program of the model that takes `input_ids`.
        inputs: Arguments by name; a missing mask is all ones, missing positions follow from the mask.
        cache: What the step before returned, None for the first.
    """
    tensors = known(artifact, inputs)
    past = cache.tensors if cache is not None else {}
    length = cache.get_seq_length() if cache is not None else 0
    if "attention_mask" in artifact.input_names and "attention_mask" not in tensors:
        ids = tensors["input_ids"]
        tensors["attention_mask"] = torch.ones(ids.shape[0], length + ids.shape[1], dtype=torch.int64)
    if "position_ids" in artifact.input_names and "position_ids" not in tensors:
        tensors["position_ids"] = positions(tensors["attention_mask"], tensors["input_ids"].shape[1])
    if getattr(artifact, "variables", None) is not None:
        return _go_on(artifact, tensors, cache)
    if cache is None and (rows := distinct_rows(tensors)) is not None:
        return _once(artifact, tensors, *rows)
    states = [port for port in artifact.interface.inputs if port.name.startswith(PAST)]
    if getattr(artifact, "in_place", False):
        return _append(artifact, tensors, states, cache)
    tensors |= {port.name: past[port.name] if port.name in past else empty(port, tensors) for port in states}
    outputs = artifact.run(**tensors)
    present = {PAST + name.removeprefix(PRESENT): value for name, value in outputs.items() if name.startswith(PRESENT)}
    return outputs, ArtifactCache(present) if present else None


def distinct_rows(tensors: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Which rows differ from the row before, and for each row the number of the one it is; None if all differ.

    The beams of a text, and the sequences that are sampled for it, begin as equal rows side by side.
    """
    values = list(tensors.values())
    if values[0].shape[0] == 1:
        return None
    new = torch.stack([(value[1:] != value[:-1]).flatten(1).any(1) for value in values]).any(0)
    if new.all():
        return None
    first = torch.cat([new.new_ones(1), new])
    return first.nonzero()[:, 0], first.cumsum(0) - 1


def _once(artifact: Artifact, tensors: Tensors, kept: torch.Tensor, back: torch.Tensor) -> tuple[Tensors, Any]:
    """A first step that computes equal rows once."""
    outputs, cache = decode(artifact, {name: tensor[kept] for name, tensor in tensors.items()}, None)
    evenly = torch.equal(back, torch.arange(len(kept)).repeat_interleave(len(back) // len(kept)))
    if cache is not None:
        cache.repeat_rows(back, shared=evenly and bool(getattr(artifact, "shared", False)))
    return {name: value[back] for name, value in outputs.items() if not name.startswith(PRESENT)}, cache


def _append(artifact: Any, tensors: Tensors, states: list[Port], cache: ArtifactCache | None) -> tuple[Tensors, Any]:
    """A step that writes its keys and values into the cache that it was given."""
    if not isinstance(cache, RoomyCache):
        cache = RoomyCache({port.name: empty(port, tensors) for port in states})
    length = cache.length + tensors["input_ids"].shape[1]
    cache.reserve(length)
    outputs = artifact.step(tensors, cache.tensors)
    cache.length = length
    return outputs, cache


def _go_on(artifact: Any, tensors: Tensors, cache: ArtifactCache | None) -> tuple[Tensors, Any]:
    """A step of an artifact that keeps its cache inside."""
    if cache is None:
        cache = HeldCache(artifact, artifact.restart())
    if not isinstance(cache, HeldCache) or cache.text != artifact.text:
        raise InputError(
            "the model does not hold this cache any more",
            why="its variables hold the text that was begun last",
            remedies=["generate one text after the other", "export with openvino{stateful=no}"],
        )
    outputs = artifact.step(tensors, cache.rows)
    cache.rows, cache.length = None, cache.length + tensors["input_ids"].shape[1]
    return outputs, cache


def positions(mask: torch.Tensor, count: int) -> torch.Tensor:
    """Positions of the last tokens of each row, padding not counted."""
    numbers = (mask.to(torch.int64).cumsum(-1) - 1).clamp(min=0)
    return numbers[:, -count:]


def empty(port: Port, others: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """An empty cache input: no tokens, as many rows as the other inputs have."""
    rows = next(iter(others.values())).shape[0]
    sizes = [rows if i == 0 else evaluate(size, {}) or 0 for i, size in enumerate(port.shape)]
    return torch.zeros(sizes, dtype=port.torch_dtype())
