"""Decoders that write into their cache, behind the interface of those whose cache grows, or step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from graphwright.ir.errors import InputError
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.buckets import Sizes, sizes_of
from graphwright.lowering.dims import evaluate
from graphwright.lowering.interface import Interface, Port
from graphwright.lowering.neuron.artifact import NeuronArtifact, NeuronBuckets
from graphwright.lowering.neuron.builder import narrow
from graphwright.lowering.neuron.cache import POSITION
from graphwright.lowering.neuron.xla import tensor_of

Tensors = Mapping[str, torch.Tensor]


class NeuronDecoder(NeuronBuckets):
    """Modules for several numbers of new tokens on caches with one number of slots.

    Args:
        past: Dimension of the tokens in the cache; in a bucket it is the number of slots.
        token: Dimension of the new tokens.
    """

    def __init__(
        self, target: str, interface: Interface, parts: Mapping[str, Artifact], sizes: Mapping[str, Sizes],
        flags: Sequence[str], past: str, token: str,
    ) -> None:  # fmt: skip
        super().__init__(target, interface, parts, sizes, flags)
        self.past, self.token = past, token
        most = max(one[past] - min(other[token] for other in self.sizes.values()) for one in self.sizes.values())
        info = interface.dims[past]
        kept = replace(info, max=most, example=min(info.example, most), only=())
        self.interface = replace(self.interface, dims=self.interface.dims | {past: kept})

    def part_for(self, inputs: Tensors) -> str:
        """Name of the bucket with the fewest new tokens and rows that inputs fit into.

        Raises:
            InputError: None has room for the tokens.
        """
        return self._fitting(sizes_of(self.interface, inputs))

    def _fitting(self, sizes: Sizes) -> str:
        rooms = {
            name: (bucket[self.token], *(bucket[d] for d in sizes))
            for name, bucket in self.sizes.items()
            if sizes[self.past] + bucket[self.token] <= bucket[self.past]
            and all(bucket[d] >= size for d, size in sizes.items() if d != self.past)
        }
        if not rooms:
            raise InputError(
                f"no bucket has room for {sizes[self.token]} tokens after {sizes[self.past]}",
                why=f"the buckets are {', '.join(self.sizes)}, where {self.past} is the number of slots",
                remedies=["lower the model with more slots"],
            )
        return min(rooms, key=rooms.__getitem__)

    def _run(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        sizes = sizes_of(self.interface, inputs)
        part = self.parts[self._fitting(sizes)]
        given = dict(inputs) | {POSITION: torch.tensor(sizes[self.past])}
        results = part.run(**{port.name: filled(given[port.name], port) for port in part.interface.inputs})
        return {port.name: _cut(results[port.name], port, sizes) for port in self.interface.outputs}

    def description(self) -> dict[str, Any]:
        """What the buckets say, and which dimensions are the tokens and the slots."""
        return super().description() | {"decoder": {"past": self.past, "token": self.token}}

    def session(self, rows: int) -> Session:
        """Steps on a cache of its own, for a number of rows that a bucket has."""
        return Session(self, rows)


def filled(tensor: torch.Tensor, port: Port) -> torch.Tensor:
    """An input in the sizes of a module: zeros at the end; further rows repeat the first, which has no row of zeros."""
    for axis, size in enumerate(port.shape):
        missing = int(size) - tensor.shape[axis]
        if missing and axis == 0:
            tensor = torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])])
        elif missing:
            blank = tensor.new_zeros([*tensor.shape[:axis], missing, *tensor.shape[axis + 1 :]])
            tensor = torch.cat([tensor, blank], axis)
    return tensor


def _cut(tensor: torch.Tensor, port: Port, sizes: Sizes) -> torch.Tensor:
    """An output without what belongs to padding or to empty slots, both of which are at the end."""
    for axis, size in enumerate(port.shape):
        length = evaluate(size, sizes)
        tensor = tensor if length is None else tensor.narrow(axis, 0, length)
    return tensor.contiguous()


class Session:
    """Steps of a decoder whose cache stays where the model runs: each takes the memory of the one before.

    Args:
        decoder: The modules.
        rows: Number of rows; a bucket must have it.

    Attributes:
        length: Number of tokens in the cache.
    """

    def __init__(self, decoder: NeuronDecoder, rows: int) -> None:
        self.decoder, self.length = decoder, 0
        axis = next(str(port.shape[0]) for port in decoder.interface.inputs if port.shape)
        self.parts = {
            decoder.sizes[name][decoder.token]: part
            for name, part in decoder.parts.items()
            if isinstance(part, NeuronArtifact) and decoder.sizes[name].get(axis, rows) == rows
        }
        if not self.parts:
            raise InputError(f"no bucket has {rows} rows", why=f"the buckets are {', '.join(decoder.sizes)}")
        self._cache: dict[str, Any] = {}

    def step(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Add tokens.

        Args:
            inputs: As the decoder takes them, but for the cache: `input_ids`, and where the model takes them
                `attention_mask` over all tokens so far and `position_ids`.

        Returns:
            The outputs for the new tokens, without the cache.

        Raises:
            InputError: There is no room for the tokens.
        """
        count = inputs["input_ids"].shape[1]
        part = self.parts[self._width(count)]
        inputs = inputs | {POSITION: torch.tensor(self.length)}
        outputs = self._run(part, inputs)
        self.length += count
        ports = [port for port in self.decoder.interface.outputs if port.name in outputs]
        sizes = {self.decoder.token: count}
        return {port.name: _cut(outputs[port.name], port, sizes) for port in ports}

    def _width(self, count: int) -> int:
        slots = max(bucket[self.decoder.past] for bucket in self.decoder.sizes.values())
        widths = [width for width in self.parts if count <= width and self.length + width <= slots]
        if not widths:
            raise InputError(f"there is no room for {count} tokens after {self.length}", why=f"there are {slots} slots")
        return min(widths)

    def _run(self, part: NeuronArtifact, inputs: Tensors) -> dict[str, torch.Tensor]:
        run, taken = part.executable, part.emitted.aliases
        buffers = []
        for port in part.interface.inputs:
            if port.name in self._cache:
                buffers.append(self._cache.pop(port.name))
                continue
            shape = [int(size) for size in port.shape]
            value = inputs[port.name] if port.name in inputs else torch.zeros(shape, dtype=port.torch_dtype())
            buffers.append(run.buffer(filled(value, port).to(narrow(port.torch_dtype()))))
        names = [port.name for port in part.interface.outputs]
        found = dict(zip(names, run(buffers), strict=True))
        self._cache = {source: found.pop(output) for output, source in taken.items()}
        types = {port.name: port.torch_dtype() for port in part.interface.outputs}
        return {name: tensor_of(buffer).to(types[name]) for name, buffer in found.items()}
