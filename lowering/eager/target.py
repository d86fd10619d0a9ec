"""EagerTarget: lower a program to PyTorch itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from graphwright.ir.program import Program
from graphwright.lowering.eager.artifact import EagerArtifact
from graphwright.lowering.eager.cuda import CompileMode
from graphwright.lowering.eager.folding import FoldMode
from graphwright.lowering.eager.linear import LinearMode
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
        compile: Whether a program of half precision on a GPU is compiled, for inference: `never`, `default`, or
            `autotune`, which times several kernels for each product; see `CudaFunction`.
    """

    name: ClassVar[str] = "eager"
    fold: FoldMode = "all"
    linear: LinearMode = "auto"
    compile: CompileMode = "never"

    def emit(self, program: Program) -> EagerArtifact:
        """Compile the program to one flat function."""
        return EagerArtifact(str(self), program, self.fold, self.linear, self.compile)

    @classmethod
    def load(cls, folder: Path, manifest: Mapping[str, Any]) -> EagerArtifact:
        """Read an artifact that `save` wrote."""
        target = build(cls, parse_call(manifest["target"]))
        return target.emit(Program.load(folder / "program"))
