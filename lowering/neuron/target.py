"""The AWS Neuron target."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.fx import Node

from graphwright.ir.errors import GraphwrightError, MissingDependencyError
from graphwright.ir.fixed_sizes import fix_sizes
from graphwright.ir.program import Program
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.bucketed import BucketedArtifact
from graphwright.lowering.buckets import Sizes, buckets
from graphwright.lowering.checks import emittable
from graphwright.lowering.decompose import decompose
from graphwright.lowering.interface import Interface
from graphwright.lowering.interface_json import interface_from_json
from graphwright.lowering.static import StaticTarget
from graphwright.lowering.support import Support

logger = logging.getLogger("graphwright")
_CHOICES = {
    "device": ("trn1", "trn1n", "inf2", "trn2", "trn3"), "variant": ("reference", "neuron"),
    "products": ("", "bfloat16"), "auto_cast": ("none", "matmult", "all"), "kind": ("transformer", "generic"),
    "level": (1, 2, 3), "cache": ("buffer", "grow"),
}  # fmt: skip


@dataclass(frozen=True)
class NeuronTarget(StaticTarget):
    """HLO for AWS Trainium and Inferentia, built operator by operator.

    Args:
        device: What `neuronx-cc` compiles for: `trn1`, `trn1n`, `inf2`, `trn2`, `trn3`.
        variant: `reference` has plain operators only; in `neuron`, softmax, RMS norm, GELU and SiLU are calls of the
            compiler's kernels.
        products: `bfloat16` rounds the operands of products, and stores their weights so; sums stay in float32.
        cache: `buffer` makes the cache of a decoder buffers that each step writes into; the size of its dimension is
            then the number of slots. `grow` leaves it an input and a longer output.
        auto_cast: What the compiler itself computes in bfloat16: `none`, `matmult` or `all`.
        kind: `transformer` or `generic`: what the compiler takes the model for.
        level: Its optimization level, 1 to 3.
    """

    name: ClassVar[str] = "neuron"

    device: str = "trn1"
    variant: str = "reference"
    products: str = ""
    cache: str = "buffer"
    auto_cast: str = "none"
    kind: str = "transformer"
    level: int = 2

    def __post_init__(self) -> None:
        for option, known in _CHOICES.items():
            value = getattr(self, option)
            if value not in known:
                raise GraphwrightError(
                    f"the Neuron target has no {option}={value}", why=f"it has {', '.join(repr(one) for one in known)}"
                )

    @property
    def precision(self) -> str:
        """`bfloat16` where products are rounded to it."""
        return self.products

    def pipeline(self) -> str:
        """Canonical form, with norms, activations and attention as operators of their own."""
        return "canonicalize,fuse-attention,fuse-norm,fuse-activation"

    def fixed(self, program: Program) -> dict[str, Program]:
        """The program in the sizes of each bucket; that of a decoder writes into its cache."""
        from graphwright.lowering.neuron.cache import growths, in_place, obstacle
        from graphwright.passes.pipeline import Pipeline

        if self.cache != "buffer":
            return super().fixed(program)
        canonical = Pipeline("canonicalize").run(program, validate=False).program
        if not growths(canonical):
            return super().fixed(program)
        interface = Interface.of(program)
        found, (past, token) = buckets(interface, self.sizes), _cache_dims(interface)
        reason = obstacle(canonical, max(sizes[past] for sizes in found.values()))
        if reason:
            logger.warning("the cache of %s stays an input and a longer output: %s", program.name, reason)
            return super().fixed(program)
        made = in_place(canonical)
        return {name: fix_sizes(made, sizes | {past: _before(sizes, past, token)}) for name, sizes in found.items()}

    def legalize(self, program: Program) -> Program:
        """A canonical copy in which exactly the calls without emitter are decomposed."""
        _table()
        from graphwright.lowering.neuron.effects import without_effects
        from graphwright.lowering.neuron.legality import note_positions
        from graphwright.passes.pipeline import Pipeline

        legal = Pipeline(self.pipeline()).run(without_effects(program), validate=False).program
        note_positions(legal)
        decompose(legal, lambda node: self.supports(node).ok)
        return legal

    def supports(self, node: Node) -> Support:
        """Whether the compiler takes a call, there is an emitter for it, and it can express the arguments."""
        table = _table()
        from graphwright.lowering.neuron.legality import Rules
        from graphwright.lowering.neuron.table import meet

        meet(node)
        answer = Rules(self.device).judge(node)
        return emittable(table, node, lambda size: "") if answer.ok else answer

    def emit(self, program: Program) -> Artifact:
        """Emit every call by its emitter; then look at the HLO once more.

        Raises:
            UnsupportedError: Names every instruction that Neuron's compiler refuses.
        """
        _table()
        from graphwright.lowering.neuron.artifact import NeuronArtifact
        from graphwright.lowering.neuron.builder import Builder
        from graphwright.lowering.neuron.cache import aliases
        from graphwright.lowering.neuron.hlo import read
        from graphwright.lowering.neuron.model import emit_model
        from graphwright.lowering.neuron.verify import check

        builder = Builder(getattr(torch, self.products) if self.products else None, self.variant == "neuron")
        artifact = NeuronArtifact(str(self), Interface.of(program), emit_model(program, builder, aliases(program)))
        check(read(artifact.proto), self.device)
        return artifact

    def join_buckets(
        self, interface: Interface, parts: Mapping[str, Artifact], sizes: Mapping[str, Sizes]
    ) -> BucketedArtifact:
        """The modules, with the arguments that Neuron's compiler gets."""
        _table()
        from graphwright.lowering.neuron.artifact import NeuronBuckets
        from graphwright.lowering.neuron.cache import POSITION
        from graphwright.lowering.neuron.compile import flags
        from graphwright.lowering.neuron.decoder import NeuronDecoder

        arguments = flags(self.device, self.kind, self.auto_cast, self.level)
        if POSITION in next(iter(parts.values())).input_names and POSITION not in _names(interface):
            past, token = _cache_dims(interface)
            return NeuronDecoder(str(self), interface, parts, sizes, arguments, past, token)
        return NeuronBuckets(str(self), interface, parts, sizes, arguments)

    @classmethod
    def load_bucket(cls, folder: Path, entry: Mapping[str, Any]) -> Artifact:
        """Read one module."""
        _table()
        from graphwright.lowering.neuron.artifact import NeuronArtifact

        return NeuronArtifact.read(folder, entry, interface_from_json(entry["interface"]))


def _names(interface: Interface) -> list[str]:
    return [port.name for port in interface.inputs]


def _cache_dims(interface: Interface) -> tuple[str, str]:
    """The dimension of the tokens in a growing cache, and of the new ones: an output's size is the sum of both."""
    sums = [size.split(" + ") for port in interface.outputs for size in port.shape if isinstance(size, str)]
    pairs = [pair for pair in sums if len(pair) == 2]
    caches = {size for port in interface.inputs if len(port.shape) > 2 for size in port.shape}
    past, token = next(sorted(pair, key=lambda name: name not in caches) for pair in pairs)
    return past, token


def _before(sizes: Sizes, past: str, token: str) -> int:
    """Slots before those of the new tokens.

    Raises:
        GraphwrightError: There are fewer slots than new tokens.
    """
    if sizes[past] < sizes[token]:
        raise GraphwrightError(
            f"{sizes[token]} new tokens do not fit into {sizes[past]} slots",
            remedies=[f"choose a larger size: sizes={token}:{sizes[token]}/{past}:{2 * sizes[token]}"],
        )
    return sizes[past] - sizes[token]


def _table() -> Any:
    try:
        from graphwright.lowering.neuron.table import load_table

        return load_table()
    except ImportError as error:
        raise MissingDependencyError(error.name or "jax", "neuron", "the Neuron target") from error
