"""EagerTarget: lower a program to PyTorch itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from graphwright.ir.errors import GraphwrightError
from graphwright.ir.program import Program
from graphwright.lowering.eager.artifact import EagerArtifact
from graphwright.lowering.eager.cuda import CompileMode
from graphwright.lowering.eager.folding import FoldMode
from graphwright.lowering.eager.linears import LinearMode
from graphwright.lowering.eager.narrow import narrow_dtype
from graphwright.lowering.eager.packed.cpu import PackedMode
from graphwright.lowering.target import Target
from graphwright.passes.spec import build, parse_call


@dataclass(frozen=True)
class EagerTarget(Target):
    """Run a program with PyTorch's own kernels, on the model's own weights.

    Args:
        fold: Expressions of weights alone that are computed once: `all`, `views` (those that only look into a weight)
            or `never`.
        linear: How linears run on a CPU where no gradient is recorded: `mkl` is ATen's way, `onednn` is oneDNN's on
            the model's own weights with activations and residuals fused, `auto` is the faster of the two, as measured
            once on this machine for each size, and `packed` also tries a reordered copy of the weights, which is the
            fastest but takes their memory a second time.
        dtype: `bfloat16` allows float32 products on a CPU, and what follows them, to be computed in half precision
            where no gradient is recorded, if this machine is faster at it; weights are kept in that dtype as well.
        compile: How a program on a GPU runs where no gradient is recorded: `never` launches its kernels one by one,
            `graphs` replays CUDA graphs of them, `auto` as well unless that takes an eighth of the GPU's memory,
            `inductor` compiles it first; see `CudaFunction`.
        packed: What kernels of packed linears may do: `auto` is the fastest, `small` keeps no dequantized weight,
            `exact` does not round scales; see `PackedCall`.

    Raises:
        GraphwrightError: `dtype=bfloat16` without `fold=all`: the narrow weights have to be kept.
    """

    name: ClassVar[str] = "eager"
    fold: FoldMode = "all"
    linear: LinearMode = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    compile: CompileMode = "auto"
    packed: PackedMode = "auto"

    def __post_init__(self) -> None:
        if self.dtype != "float32" and self.fold != "all":
            raise GraphwrightError(f"eager{{dtype={self.dtype}}} needs fold=all", why="the narrow weights must be kept")

    def pipeline(self) -> str:
        """Narrowing follows values from op to op, so nothing may be written in place."""
        return "canonicalize" if self.dtype != "float32" else ""

    def emit(self, program: Program) -> EagerArtifact:
        """Compile the program to one flat function."""
        dtype = narrow_dtype(self.dtype)
        return EagerArtifact(str(self), program, self.fold, self.linear, dtype, self.compile, self.packed)

    @classmethod
    def load(cls, folder: Path, manifest: Mapping[str, Any]) -> EagerArtifact:
        """Read an artifact that `save` wrote."""
        target = build(cls, parse_call(manifest["target"]))
        return target.emit(Program.load(folder / "program"))
