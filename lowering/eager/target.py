"""EagerTarget: lower a program to PyTorch itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from graphwright.ir.program import Program
from graphwright.lowering.eager.artifact import EagerArtifact
from graphwright.lowering.eager.folding import FoldMode
from graphwright.lowering.target import Target
from graphwright.passes.spec import build, parse_call


@dataclass(frozen=True)
class EagerTarget(Target):
    """Run a program with PyTorch's own kernels, on the model's own weights.

    Args:
        fold: Expressions of weights alone that are computed once: `all`, `views` (those that only look into a weight)
            or `never`.
    """

    name: ClassVar[str] = "eager"
    fold: FoldMode = "all"

    def emit(self, program: Program) -> EagerArtifact:
        """Compile the program to one flat function."""
        return EagerArtifact(str(self), program, self.fold)

    @classmethod
    def load(cls, folder: Path, manifest: Mapping[str, Any]) -> EagerArtifact:
        """Read an artifact that `save` wrote."""
        target = build(cls, parse_call(manifest["target"]))
        return target.emit(Program.load(folder / "program"))
