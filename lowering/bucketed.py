"""BucketedArtifact: one artifact per combination of fixed sizes, behind the interface of the dynamic program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from graphwright.ir.snapshot import Snapshot
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.buckets import Padding, Sizes, choose, cut, pad, sizes_of
from graphwright.lowering.interface import Interface


class BucketedArtifact(Artifact):
    """Artifacts of fixed sizes; a call is padded to the smallest that fits, and its results are cut.

    Args:
        target: Text form of the target.
        interface: Interface of the program before sizes were fixed; it is narrowed to what the buckets can take.
        parts: Artifact of each bucket. Their integer types may be narrower than the interface's.
        sizes: Bucket -> size of each dimension.
    """

    def __init__(
        self, target: str, interface: Interface, parts: Mapping[str, Artifact], sizes: Mapping[str, Sizes]
    ) -> None:
        self.padding = Padding.of(interface)
        narrowed = self.padding.narrowed(interface, list(sizes.values()))
        super().__init__(target, narrowed, next(iter(parts.values())).provenance)
        self.parts, self.sizes = dict(parts), {name: dict(one) for name, one in sizes.items()}

    def part_for(self, inputs: Mapping[str, torch.Tensor]) -> str:
        """Name of the bucket that inputs are run in.

        Raises:
            InputError: None fits.
        """
        return choose(self.padding, self.sizes, sizes_of(self.interface, inputs))

    def _run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name = self.part_for(inputs)
        part, bucket, sizes = self.parts[name], self.sizes[name], sizes_of(self.interface, inputs)
        types = {port.name: port.torch_dtype() for port in part.interface.inputs}
        ports = [port for port in self.interface.inputs if port.name in types]
        results = part.run(
            **{p.name: pad(self.padding, p, inputs[p.name], sizes, bucket).to(types[p.name]) for p in ports}
        )
        return {
            port.name: cut(self.padding, port, results[port.name], sizes, bucket).to(port.torch_dtype())
            for port in self.interface.outputs
        }

    def snapshot(self) -> Snapshot:
        """Picture of the first bucket."""
        return next(iter(self.parts.values())).snapshot()

    def as_deployed(self) -> Artifact | None:
        """The buckets as they compute where nobody asks for exactness."""
        parts = {name: part.as_deployed() for name, part in self.parts.items()}
        if any(part is None for part in parts.values()):
            return None
        return type(self)(self.target, self.interface, {name: part for name, part in parts.items() if part}, self.sizes)

    def _write(self, folder: Path) -> None:
        for name, part in self.parts.items():
            (folder / name).mkdir()
            part._write(folder / name)

    def description(self) -> dict[str, Any]:
        """Interface, provenance, and what is known of each bucket."""
        entries = {
            name: {"sizes": self.sizes[name], "target": part.target} | part.description()
            for name, part in self.parts.items()
        }
        return super().description() | {"buckets": entries}
