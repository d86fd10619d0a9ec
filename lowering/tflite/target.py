"""The TFLite (LiteRT) target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch.fx import Node

from graphwright.ir.errors import MissingDependencyError
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


@dataclass(frozen=True)
class TFLiteTarget(StaticTarget):
    """TFLite flatbuffers for LiteRT, written operator by operator; each bucket of sizes is a signature of one file.

    Args:
        packed: Packed linears: `exact` dequantizes their weights when the model is loaded; `native` multiplies with
            the integers, for which kernels round the other side to 8 bits.
    """

    name: ClassVar[str] = "tflite"

    packed: str = "exact"

    def pipeline(self) -> str:
        """Canonical form, with norms and activations as operators of their own."""
        return "canonicalize,fuse-attention,fuse-norm,fuse-activation"

    def legalize(self, program: Program) -> Program:
        """A canonical copy in which exactly the calls without emitter are decomposed."""
        from graphwright.passes.pipeline import Pipeline

        legal = Pipeline(self.pipeline()).run(program, validate=False).program
        decompose(legal, lambda node: self.supports(node).ok)
        return legal

    def supports(self, node: Node) -> Support:
        """Whether there is an emitter for a call and it can express the arguments."""
        return emittable(_table(), node, lambda size: "LiteRT's kernels are given fixed sizes here")

    def emit(self, program: Program) -> Artifact:
        """One signature in a file of its own."""
        return self.emit_buckets({"model": program})["model"]

    def emit_buckets(self, programs: Mapping[str, Program]) -> dict[str, Artifact]:
        """One file with a signature for each bucket; weights that are equal are stored once."""
        _table()
        from graphwright.lowering.tflite.artifact import TFLiteArtifact, TFLiteFile
        from graphwright.lowering.tflite.model import emit_graph
        from graphwright.lowering.tflite.writer import write

        graphs = {name: emit_graph(program, name, self.packed) for name, program in programs.items()}
        file = TFLiteFile(write(list(graphs.values())))
        return {
            name: TFLiteArtifact(str(self), Interface.of(programs[name]), graph.provenance(), file=file, signature=name)
            for name, graph in graphs.items()
        }

    def join_buckets(
        self, interface: Interface, parts: Mapping[str, Artifact], sizes: Mapping[str, Sizes]
    ) -> BucketedArtifact:
        """The artifact that chooses among the signatures."""
        from graphwright.lowering.tflite.artifact import TFLiteBuckets

        return TFLiteBuckets(str(self), interface, parts, sizes)

    @classmethod
    def load_bucket(cls, folder: Path, entry: Mapping[str, Any]) -> Artifact:
        """Read one signature; all share the file beside the manifest."""
        from graphwright.lowering.tflite.artifact import MODEL, TFLiteArtifact, TFLiteFile

        interface = interface_from_json(entry["interface"])
        file = TFLiteFile(path=folder.parent / MODEL)
        signature = str(entry["signature"])
        return TFLiteArtifact(entry["target"], interface, entry.get("provenance"), file=file, signature=signature)


def _table() -> Any:
    try:
        import ai_edge_litert  # noqa: F401

        from graphwright.lowering.tflite.table import load_table

        return load_table()
    except ImportError as error:
        raise MissingDependencyError(error.name or "ai-edge-litert", "tflite", "the TFLite target") from error
