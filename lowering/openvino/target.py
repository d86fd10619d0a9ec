"""The OpenVINO target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch.fx import Node

from graphwright.ir.errors import GraphwrightError, MissingDependencyError
from graphwright.ir.program import Program
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.checks import emittable
from graphwright.lowering.decompose import decompose
from graphwright.lowering.interface import Interface
from graphwright.lowering.interface_json import interface_from_json
from graphwright.lowering.support import Support
from graphwright.lowering.target import Target

WEIGHTS = ("", "f16", "i8", "u4")
STATES = ("auto", "no")


@dataclass(frozen=True)
class OpenVINOTarget(Target):
    """OpenVINO models (`.xml` and `.bin`), built operator by operator.

    Args:
        weights: How matrices are stored: as they are, or `f16`, `i8` (per row), `u4` (groups of 128). Packed linears
            keep their own bits.
        stateful: `auto` keeps the cache of a decoder inside the model, as OpenVINO GenAI and optimum-intel expect;
            `no` leaves it among the inputs and outputs.
    """

    name: ClassVar[str] = "openvino"

    weights: str = ""
    stateful: str = "auto"

    def __post_init__(self) -> None:
        for option, value, known in (("weights", self.weights, WEIGHTS), ("stateful", self.stateful, STATES)):
            if value not in known:
                raise GraphwrightError(
                    f"the OpenVINO target has no {option}={value}",
                    why=f"it has {', '.join(repr(one) for one in known)}",
                )

    @property
    def precision(self) -> str:
        """What results are judged by where weights are compressed."""
        return {"f16": "float16", "i8": "int8", "u4": "int4"}.get(self.weights, "")

    def pipeline(self) -> str:
        """Canonical form, with norms and activations as operators of their own."""
        return "canonicalize,fuse-attention,fuse-norm,fuse-activation,conv1d-to-linear"

    def legalize(self, program: Program) -> Program:
        """A canonical copy in which exactly the calls without emitter are decomposed."""
        from graphwright.passes.pipeline import Pipeline

        legal = Pipeline(self.pipeline()).run(program, validate=False).program
        decompose(legal, lambda node: self.supports(node).ok)
        return legal

    def supports(self, node: Node) -> Support:
        """Whether there is an emitter for a call and it can express the arguments."""
        table = _table()
        from graphwright.lowering.openvino.builder import why_not

        return emittable(table, node, why_not)

    def emit(self, program: Program) -> Artifact:
        """Emit every call by its emitter; then take the cache into the model."""
        _table()
        from graphwright.lowering.openvino.artifact import OpenVINOArtifact, Variables
        from graphwright.lowering.openvino.model import emit_model
        from graphwright.lowering.openvino.session import OpenVINOFile
        from graphwright.lowering.openvino.stateful import cache_pairs, make_stateful

        emitted = emit_model(program, self.weights)
        pairs = cache_pairs(program) if self.stateful == "auto" else {}
        variables = None
        if pairs:
            emitted.model = make_stateful(emitted.model, pairs)
            names = {output: f"{source}{output}" for output, source in pairs.items()}
            variables = Variables({pairs[output]: name for output, name in names.items()}, names)
        interface, file = Interface.of(program), OpenVINOFile(emitted=emitted)
        return OpenVINOArtifact(str(self), interface, emitted.provenance, file=file, variables=variables)

    def join(self, parts: Mapping[str, Artifact]) -> dict[str, Artifact]:
        """Both steps of a decoder that reads an encoder as one stateful model, as optimum-intel has it."""
        _table()
        from graphwright.lowering.openvino.decoders import join_decoders

        return join_decoders(parts)

    @classmethod
    def load(cls, folder: Path, manifest: Mapping[str, Any]) -> Artifact:
        """Read an OpenVINO artifact."""
        _table()
        from graphwright.lowering.openvino.artifact import MODEL, OpenVINOArtifact, Variables
        from graphwright.lowering.openvino.session import OpenVINOFile

        name = Path(manifest.get("file", MODEL)).name
        variables = Variables(**manifest["variables"]) if manifest.get("variables") else None
        interface = interface_from_json(manifest["interface"])
        return OpenVINOArtifact(
            manifest["target"], interface, manifest.get("provenance"),
            file=OpenVINOFile(path=folder / name), name=name, variables=variables,
        )  # fmt: skip

    @classmethod
    def load_parts(cls, folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Artifact]:
        """Read the parts of one model; those in one file share its request."""
        parts: dict[str, Any] = super().load_parts(folder, entries)
        files = {part.file.path: part.file for part in parts.values()}
        for part in parts.values():
            part.file = files[part.file.path]
        return parts


def _table() -> Any:
    try:
        from graphwright.lowering.openvino.table import load_table

        return load_table()
    except ImportError as error:
        raise MissingDependencyError(error.name or "openvino", "openvino", "the OpenVINO target") from error
