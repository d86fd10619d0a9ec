"""The AWS Neuron target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.fx import Node

from graphwright.ir.errors import GraphwrightError, MissingDependencyError
from graphwright.ir.infer import fake_mode_of, inference_scope
from graphwright.ir.program import Program
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.bucketed import BucketedArtifact
from graphwright.lowering.buckets import Sizes
from graphwright.lowering.checks import emittable
from graphwright.lowering.decompose import decompose
from graphwright.lowering.interface import Interface
from graphwright.lowering.interface_json import interface_from_json
from graphwright.lowering.static import StaticTarget
from graphwright.lowering.support import Support

_CHOICES = {
    "device": ("trn1", "trn1n", "inf2", "trn2", "trn3"), "variant": ("reference", "neuron"),
    "products": ("", "bfloat16"), "auto_cast": ("none", "matmult", "all"), "kind": ("transformer", "generic"),
    "level": (1, 2, 3),
}  # fmt: skip


@dataclass(frozen=True)
class NeuronTarget(StaticTarget):
    """HLO for AWS Trainium and Inferentia, built operator by operator.

    Args:
        device: What `neuronx-cc` compiles for: `trn1`, `trn1n`, `inf2`, `trn2`, `trn3`.
        variant: `reference` has plain operators only; in `neuron`, softmax, RMS norm, GELU and SiLU are calls of the
            compiler's kernels.
        products: `bfloat16` rounds the operands of products, and stores their weights so; sums stay in float32.
        auto_cast: What the compiler itself computes in bfloat16: `none`, `matmult` or `all`.
        kind: `transformer` or `generic`: what the compiler takes the model for.
        level: Its optimization level, 1 to 3.
    """

    name: ClassVar[str] = "neuron"

    device: str = "trn1"
    variant: str = "reference"
    products: str = ""
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

    def legalize(self, program: Program) -> Program:
        """A canonical copy in which exactly the calls without emitter are decomposed."""
        from graphwright.passes.pipeline import Pipeline

        legal = Pipeline(self.pipeline()).run(program, validate=False).program
        _own_types(legal)
        decompose(legal, lambda node: self.supports(node).ok)
        return legal

    def supports(self, node: Node) -> Support:
        """Whether the compiler takes a call, there is an emitter for it, and it can express the arguments."""
        table = _table()
        from graphwright.lowering.neuron.legality import Rules

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
        from graphwright.lowering.neuron.hlo import read
        from graphwright.lowering.neuron.model import emit_model
        from graphwright.lowering.neuron.verify import check

        builder = Builder(getattr(torch, self.products) if self.products else None, self.variant == "neuron")
        artifact = NeuronArtifact(str(self), Interface.of(program), emit_model(program, builder))
        check(read(artifact.proto), self.device)
        return artifact

    def join_buckets(
        self, interface: Interface, parts: Mapping[str, Artifact], sizes: Mapping[str, Sizes]
    ) -> BucketedArtifact:
        """The modules, with the arguments that Neuron's compiler gets."""
        _table()
        from graphwright.lowering.neuron.artifact import NeuronBuckets
        from graphwright.lowering.neuron.compile import flags

        arguments = flags(self.device, self.kind, self.auto_cast, self.level)
        return NeuronBuckets(str(self), interface, parts, sizes, arguments)

    @classmethod
    def load_bucket(cls, folder: Path, entry: Mapping[str, Any]) -> Artifact:
        """Read one module."""
        _table()
        from graphwright.lowering.neuron.artifact import NeuronArtifact

        return NeuronArtifact.read(folder, entry, interface_from_json(entry["interface"]))


def _own_types(program: Program) -> None:
    """Give every value a fake tensor of its own: `decompose` tells the arguments of a call apart by them."""
    seen: set[int] = set()
    with inference_scope(fake_mode_of(program.graph)):
        for node in program.graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor) and id(value) in seen:
                node.meta["val"] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
            seen.add(id(node.meta.get("val")))


def _table() -> Any:
    try:
        from graphwright.lowering.neuron.table import load_table

        return load_table()
    except ImportError as error:
        raise MissingDependencyError(error.name or "jax", "neuron", "the Neuron target") from error
