"""The TFLite (LiteRT) target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from torch.fx import Node

from graphwright.ir.errors import GraphwrightError, MissingDependencyError
from graphwright.ir.program import Program
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.bucketed import BucketedArtifact
from graphwright.lowering.buckets import Sizes
from graphwright.lowering.checks import emittable
from graphwright.lowering.decompose import decompose
from graphwright.lowering.interface import Interface
from graphwright.lowering.interface_json import interface_from_json
from graphwright.lowering.static import StaticTarget
from graphwright.lowering.support import Support, SupportReport
from graphwright.lowering.tflite.graph import Graph


@dataclass(frozen=True)
class TFLiteTarget(StaticTarget):
    """TFLite flatbuffers for LiteRT, written operator by operator; each bucket of sizes is a signature of one file.

    Args:
        weights: How the weights of products and embeddings are stored: as they are, `f16`, `i8` (a scale per output),
            `i4`, or in blocks of inputs with a scale each, `i4b32`, `i4b64`, `i4b128`.
        activations: `i8` or `i16`: what products compute in, with weights of 8 bits and the ranges of `calibration`;
            empty for floats.
        calibration: A safetensors file with a tensor for each input, whose rows are the samples.
        packed: Packed linears: `exact` dequantizes their weights when the model is loaded; `native` multiplies with
            the integers, for which kernels round the other side to 8 bits.
        integers: `i32` turns int64 into int32 throughout, as LiteRT's `CompiledModel` wants it; `i64` leaves it.
        cache: A decoder's cache of fixed size: among the `inputs` and outputs, or in `variables` that the runtime keeps
            between calls and that all signatures share.
        composites: Attention and RMS norm as composites, which delegates of phones have kernels for; elsewhere their
            decompositions run.
    """

    name: ClassVar[str] = "tflite"

    weights: Literal["", "f16", "i8", "i4", "i4b32", "i4b64", "i4b128"] = ""
    activations: Literal["", "i8", "i16"] = ""
    calibration: str = ""
    packed: Literal["exact", "native"] = "exact"
    integers: Literal["i32", "i64"] = "i32"
    cache: Literal["inputs", "variables"] = "inputs"
    composites: bool = False

    def __post_init__(self) -> None:
        for option, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal and getattr(self, option) not in get_args(kind):
                raise GraphwrightError(
                    f"the TFLite target has no {option}={getattr(self, option)}",
                    why=f"it has {', '.join(value for value in get_args(kind) if value)}",
                )
        if bool(self.activations) != bool(self.calibration):
            raise GraphwrightError(
                "activations=i8 and calibration=FILE go together", remedies=["use weights=i8, which needs no inputs"]
            )
        if self.activations and self.weights:
            raise GraphwrightError("activations and weights exclude each other", why="products have weights of 8 bits")

    @property
    def precision(self) -> str:
        """What results are judged by where they are rounded."""
        if self.activations or self.packed == "native":
            return "int4" if self.packed == "native" else "int8"
        return {"f16": "float16", "i8": "int8"}.get(self.weights, "int4" if self.weights else "")

    def pipeline(self) -> str:
        """Canonical form, with norms and activations as operators of their own."""
        return "canonicalize,fold-batch-norm,fuse-attention,fuse-norm,fuse-activation"

    def legalize(self, program: Program) -> Program:
        """A canonical copy in which exactly the calls without emitter are decomposed."""
        from graphwright.passes.pipeline import Pipeline

        legal = Pipeline(self.pipeline()).run(program, validate=False).program
        decompose(legal, lambda node: self.supports(node).ok)
        return legal

    def supports(self, node: Node) -> Support:
        """Whether kernels have the types of a call, and there is an emitter that can express the arguments."""
        from graphwright.lowering.tflite.legality import typed

        types = typed(node)
        return (
            types
            if not types.ok
            else emittable(_table(), node, lambda size: "LiteRT's kernels are given fixed sizes here")
        )

    def survey(self, program: Program) -> SupportReport:
        """Report what has no emitter; if all calls have one, what the runtime refuses of the operators they become."""
        report = super().survey(program)
        if not report.ok:
            return report
        from graphwright.lowering.tflite.legality import refused
        from graphwright.lowering.tflite.model import emit_graph

        graph = emit_graph(program, "model", self.packed, self.composites)
        return refused(graph, program, str(self))

    def emit(self, program: Program) -> Artifact:
        """One signature in a file of its own."""
        return self.emit_buckets({"model": program})["model"]

    def emit_buckets(self, programs: Mapping[str, Program]) -> dict[str, Artifact]:
        """One file with a signature for each bucket; weights that are equal are stored once."""
        _table()
        from graphwright.lowering.tflite.artifact import TFLiteArtifact, TFLiteFile
        from graphwright.lowering.tflite.model import emit_graph
        from graphwright.lowering.tflite.narrow import narrow, narrowed
        from graphwright.lowering.tflite.writer import write

        graphs = {name: emit_graph(program, name, self.packed, self.composites) for name, program in programs.items()}
        interfaces = {name: Interface.of(program) for name, program in programs.items()}
        for name, graph in graphs.items():
            if self.integers == "i32":
                narrow(graph)
                interfaces[name] = narrowed(interfaces[name])
            self._reduce(graph, interfaces[name])
        provenance = {name: graph.provenance() for name, graph in graphs.items()}
        pairs, extra = self._held(graphs)
        file = TFLiteFile(write([*graphs.values(), *extra]))
        return {
            name: TFLiteArtifact(str(self), interfaces[name], provenance[name], file=file, signature=name, states=pairs)
            for name in graphs
        }

    def _held(self, graphs: Mapping[str, Graph]) -> tuple[dict[str, str], list[Graph]]:
        """Take the cache into variables; output -> input of its parts, and the signatures that manage it."""
        from graphwright.lowering.tflite.variables import hold, keepers, pairs_of

        first = next(iter(graphs.values()))
        pairs = pairs_of(first.inputs, first.outputs) if self.cache == "variables" else {}
        if not pairs:
            return {}, []
        extra = keepers({name: first.inputs[name] for name in pairs.values()})
        for graph in graphs.values():
            hold(graph, pairs)
        return pairs, list(extra)

    def _reduce(self, graph: Graph, interface: Interface) -> None:
        """Bring a graph to the asked precision."""
        from graphwright.lowering.tflite.calibrate import ranges_of, samples_in
        from graphwright.lowering.tflite.compress import compress
        from graphwright.lowering.tflite.integers import quantize

        if self.weights:
            compress(graph, self.weights)
        if self.activations:
            batches = samples_in(Path(self.calibration), interface)
            quantize(graph, ranges_of(graph, batches), self.activations)

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
        states = {str(output): str(source) for output, source in entry.get("states", {}).items()}
        provenance = entry.get("provenance")
        return TFLiteArtifact(entry["target"], interface, provenance, file=file, signature=signature, states=states)


def _table() -> Any:
    try:
        import ai_edge_litert  # noqa: F401

        from graphwright.lowering.tflite.table import load_table

        return load_table()
    except ImportError as error:
        raise MissingDependencyError(error.name or "ai-edge-litert", "tflite", "the TFLite target") from error
