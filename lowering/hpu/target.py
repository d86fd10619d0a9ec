"""The HPU target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch.fx import Node

from graphwright.ir.errors import FileFormatError, GraphwrightError
from graphwright.ir.program import Program
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.buckets import buckets
from graphwright.lowering.decompose import decompose
from graphwright.lowering.hpu.artifact import HpuArtifact
from graphwright.lowering.hpu.attention import HpuAttention
from graphwright.lowering.hpu.cache import HpuCache
from graphwright.lowering.hpu.experts import HpuExperts
from graphwright.lowering.hpu.fp8 import HpuFp8
from graphwright.lowering.hpu.legality import legality
from graphwright.lowering.hpu.norm import HpuNorm, HpuRotary
from graphwright.lowering.hpu.packed import HpuPacked
from graphwright.lowering.interface import Interface
from graphwright.lowering.support import Support
from graphwright.lowering.target import Target
from graphwright.passes.registry import register_pass

FOLDED = 256
"""Bytes of constants that are computed once; an unpacked weight, however small, is not one of them."""

for _pass in (HpuCache, HpuAttention, HpuNorm, HpuRotary, HpuPacked, HpuExperts, HpuFp8):
    register_pass(_pass.name)(_pass)


@dataclass(frozen=True)
class HpuTarget(Target):
    """Intel Gaudi: FX programs that call the operators of the vendor's PyTorch bridge.

    One program serves all sizes; a module of fixed sizes is made from it for each bucket.

    Args:
        sizes: One or several sizes per dimension, such as `batch:1/sequence:128+512`; a dimension that is not named
            keeps the size it was captured with.
        softmax: The vendor's `softmax_mode`: `None`, or `fast`, which is less exact.
        fp8: `dynamic` or `static`: linears in 8 bits, with scales found at each call or by calibration; empty for none.
        calibration: For `static`, a safetensors file with a tensor for each input, whose rows are the samples.
    """

    name: ClassVar[str] = "hpu"

    sizes: str = ""
    softmax: Literal["None", "fast"] = "None"
    fp8: Literal["", "dynamic", "static"] = ""
    calibration: str = ""

    def __post_init__(self) -> None:
        if (self.fp8 == "static") != bool(self.calibration):
            raise GraphwrightError("fp8=static and calibration=FILE go together", remedies=["use fp8=dynamic"])

    @property
    def precision(self) -> str:
        """What results are judged by where linears are in 8 bits."""
        return "fp8" if self.fp8 else ""

    def pipeline(self) -> str:
        """Canonical form with fused operators, then the vendor's; caches of fixed size are written in place."""
        fused = "hpu-cache,canonicalize,fuse-attention,fuse-norm,fuse-activation,fuse-rotary"
        vendor = f"hpu-attention{{softmax={self.softmax}}},hpu-norm,hpu-rotary,hpu-packed,hpu-experts"
        return f"{fused},{vendor},canonicalize{{fold_limit={FOLDED}}},static-cache"

    def legalize(self, program: Program) -> Program:
        """A copy in which what the bridge does not have is decomposed into ATen."""
        from graphwright.passes.pipeline import Pipeline

        eight = [HpuFp8(self.fp8, self.calibration)] if self.fp8 else []
        legal = Pipeline([self.pipeline(), *eight]).run(program, validate=False).program
        decompose(legal, lambda node: self.supports(node).ok)
        legal.state = _plain(legal)
        return legal

    def supports(self, node: Node) -> Support:
        """Whether the bridge can run a call, by the rules that its vendor has published."""
        return legality(node)

    def emit(self, program: Program) -> Artifact:
        """Fix the sizes of each bucket."""
        return HpuArtifact(str(self), program, buckets(Interface.of(program), self.sizes))

    @classmethod
    def load(cls, folder: Path, manifest: Mapping[str, Any]) -> Artifact:
        """Read an HPU artifact; the Python files in it are not executed.

        Raises:
            FileFormatError: The manifest does not describe buckets.
        """
        try:
            entries = manifest["buckets"].items()
            sizes = {str(name): {str(d): int(n) for d, n in entry["sizes"].items()} for name, entry in entries}
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise FileFormatError("the manifest does not describe buckets", at=str(folder), why=repr(error)) from error
        return HpuArtifact(manifest["target"], Program.load(folder / "program"), sizes)


def _plain(program: Program) -> dict[str, Any]:
    """The state that the graph reads, without tensors that look into one another's memory."""
    used = {str(node.target) for node in program.graph.nodes if node.op == "get_attr"}
    state = {name: value for name, value in program.state.items() if name in used}
    owners: dict[int, int] = {}
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            owner = owners.setdefault(value.untyped_storage()._cdata, id(value))
            whole = value.is_contiguous() and value.untyped_storage().nbytes() == value.numel() * value.element_size()
            if owner != id(value) or not whole:
                state[name] = value.detach().clone(memory_format=torch.contiguous_format)
    return state
