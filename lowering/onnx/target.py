"""The ONNX target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch.fx import Node

from graphwright.ir.errors import GraphwrightError, MissingDependencyError
from graphwright.ir.program import Program
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.checks import emittable
from graphwright.lowering.decompose import decompose
from graphwright.lowering.interface import Interface
from graphwright.lowering.interface_json import interface_from_json
from graphwright.lowering.onnx.heads import group_heads
from graphwright.lowering.support import Support
from graphwright.lowering.target import Target

OPSETS = range(18, 25)


@dataclass(frozen=True)
class OnnxTarget(Target):
    """ONNX files for ONNX Runtime and other engines.

    Args:
        opset: Version of the operator set, 18 to 24; attention stays one `Attention` operator from 23.
        packed: How packed linears are written: `dequantize`, with ONNX's own blocked `DequantizeLinear` (opset 21 on),
            which ONNX Runtime fuses with the product; or `matmulnbits`, with ONNX Runtime's operator.
        external_bytes: Weights of more bytes than this are written to `model.onnx.data` (the format's limit is 2 GiB).
        dtype: `float32`, `float16` or `bfloat16`: what weights, caches and most operators are in.
        keep: Operators that stay in float32 beside those of `graphwright.lowering.onnx.half.KEPT`, joined by `+`.
        int8: `dynamic` or `static`: products with weights in 8-bit integers; empty for none.
        calibration: For `static`, a safetensors file with a tensor for each input, whose rows are the samples.
        dialect: `onnx`, or `ort` for the forms that are fastest on ONNX Runtime's CPU provider; decoders then have
            caches that are appended to in place, see `graphwright.lowering.onnx.in_place`, and beams read the keys of
            their text once, see `graphwright.lowering.onnx.shared`.
    """

    name: ClassVar[str] = "onnx"

    opset: int = 23
    packed: Literal["dequantize", "matmulnbits"] = "dequantize"
    external_bytes: int = 64_000_000
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    keep: str = ""
    int8: Literal["", "dynamic", "static"] = ""
    calibration: str = ""
    dialect: Literal["onnx", "ort"] = "onnx"

    def __post_init__(self) -> None:
        self._check_options()
        if self.opset not in OPSETS:
            raise GraphwrightError(
                f"the ONNX target cannot emit opset {self.opset}",
                why=f"it emits {OPSETS[0]} to {OPSETS[-1]}",
                remedies=["use opset 23, where attention stays one operator"],
            )

    def _check_options(self) -> None:
        allowed = {"dtype": ("float32", "float16", "bfloat16"), "int8": ("", "dynamic", "static")}
        for name, values in (allowed | {"dialect": ("onnx", "ort")}).items():
            if getattr(self, name) not in values:
                raise GraphwrightError(
                    f"the ONNX target has no {name}={getattr(self, name)}",
                    why=f"it has {', '.join(value for value in values if value)}",
                )
        if (self.int8 == "static") != bool(self.calibration):
            raise GraphwrightError(
                "int8=static and calibration=FILE go together", remedies=["use int8=dynamic, which needs no inputs"]
            )
        if self.int8 and self.dtype != "float32":
            raise GraphwrightError("int8 goes with dtype=float32", why="what is not a product stays in float32")

    @property
    def precision(self) -> str:
        """`float16`, `bfloat16` or `int8`; empty for the model's own."""
        return "int8" if self.int8 else "" if self.dtype == "float32" else self.dtype

    def pipeline(self) -> str:
        """Canonical form, with norms, activations and rotary embeddings as operators of their own."""
        return "canonicalize,fuse-norm,fuse-activation,fuse-rotary"

    def legalize(self, program: Program) -> Program:
        """A canonical copy in which exactly the calls without emitter are decomposed."""
        from graphwright.passes.pipeline import Pipeline

        legal = Pipeline([self.pipeline(), group_heads, "canonicalize"]).run(program, validate=False).program
        decompose(legal, lambda node: self.supports(node).ok)
        return legal

    def supports(self, node: Node) -> Support:
        """Whether there is an emitter for a call and it can express the arguments."""
        table = _table()
        from graphwright.lowering.onnx.sizes import why_not

        return emittable(table, node, why_not)

    def emit(self, program: Program) -> Artifact:
        """Emit every call by its emitter."""
        from graphwright.lowering.onnx.artifact import OnnxArtifact
        from graphwright.lowering.onnx.model import emit_model
        from graphwright.lowering.onnx.session import OnnxFile

        _table()
        model, provenance, in_place, shared = emit_model(program, self.opset, self.packed, self.dialect)
        interface = Interface.of(program)
        if self.precision:
            from graphwright.lowering.onnx.precision import reduced

            artifact = reduced(self, model, interface, provenance)
        else:
            file = OnnxFile(model, external_bytes=self.external_bytes)
            artifact = OnnxArtifact(str(self), interface, provenance, file=file)
        artifact.in_place, artifact.shared = in_place, shared
        return artifact

    def join(self, parts: Mapping[str, Artifact]) -> dict[str, Artifact]:
        """The two programs of a decoder in one file, `decoder_model_merged.onnx`, with each weight once."""
        from graphwright.lowering.onnx.merge import merge_decoders

        return merge_decoders(parts)

    @classmethod
    def load(cls, folder: Path, manifest: Mapping[str, Any]) -> Artifact:
        """Read an ONNX artifact."""
        from graphwright.lowering.onnx.artifact import MODEL, Branch, OnnxArtifact
        from graphwright.lowering.onnx.session import OnnxFile

        branch = Branch(**manifest["branch"]) if manifest.get("branch") else None
        interface = interface_from_json(manifest["interface"])
        file = OnnxFile(path=folder / Path(branch.file if branch else manifest.get("file", MODEL)).name)
        artifact = OnnxArtifact(manifest["target"], interface, manifest.get("provenance"), file=file, branch=branch)
        artifact.in_place, artifact.shared = bool(manifest.get("in_place")), bool(manifest.get("shared"))
        return artifact

    @classmethod
    def load_parts(cls, folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Artifact]:
        """Read the parts of one model; those in one file share its session."""
        parts: dict[str, Any] = super().load_parts(folder, entries)
        files = {part.file.path: part.file for part in parts.values()}
        for part in parts.values():
            part.file = files[part.file.path]
        return parts


def _table() -> Any:
    try:
        from graphwright.lowering.onnx.table import load_table
    except ImportError as error:
        raise MissingDependencyError(error.name or "onnx-ir", "onnx", "the ONNX target") from error
    return load_table()
