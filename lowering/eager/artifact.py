"""EagerArtifact: a program as a callable on PyTorch itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from graphwright.ir.node import op_name
from graphwright.ir.program import Program
from graphwright.ir.snapshot import Snapshot
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.eager.cuda import CompileMode, CudaFunction, only_gpu
from graphwright.lowering.eager.folding import FoldedFunction, FoldMode
from graphwright.lowering.eager.linears import LinearMode
from graphwright.lowering.eager.packed.cpu import PackedMode
from graphwright.lowering.interface import Interface


class EagerArtifact(Artifact):
    """A program that runs on PyTorch, with the program's own weights.

    Args:
        target: Text form of the target that made it.
        program: The program; kept, not copied.
        fold: Which weight expressions to compute once; see `FoldedFunction`.
        linear: The forms of linears to choose from; see `LinearCall`.
        dtype: What to compute float32 products in on a CPU; None for float32.
        compile: How to run on a GPU; see `CudaFunction`.
        packed: What kernels of packed linears may do; see `PackedCall`.
    """

    def __init__(
        self,
        target: str,
        program: Program,
        fold: FoldMode,
        linear: LinearMode = "mkl",
        dtype: torch.dtype | None = None,
        compile: CompileMode = "auto",
        packed: PackedMode = "auto",
    ) -> None:
        calls = {node.name: [op_name(node)] for node in program.graph.nodes if node.op == "call_function"}
        super().__init__(target, Interface.of(program), calls)
        self.program = program
        self._function = FoldedFunction(program, fold, linear, dtype, packed, compile != "inductor")
        fast = self._function.fast_program
        self._gpu = only_gpu(program)
        recorded = compile != "never" and self._gpu is not None
        self._call = CudaFunction(fast, self._function, compile, fold) if recorded else self._function

    @property
    def module(self) -> GraphModule:
        """The generated code: its `forward` takes the tensor inputs, then the weights."""
        return self._function.plain.module

    def snapshot(self) -> Snapshot:
        """Picture of the program."""
        return Snapshot.of(self.program)

    def flat(self, inputs: Sequence[torch.Tensor]) -> tuple[Any, ...]:
        """Run on tensors in the order of `input_names`, without checks; returns all flat results of the program."""
        if self._gpu is None or self._gpu == torch.cuda.current_device():
            return self._call(inputs)
        with torch.cuda.device(self._gpu):  # kernels of our own, and recordings, run on the current one
            return self._call(inputs)

    def ahead(self, inputs: Sequence[torch.Tensor]) -> tuple[Any, ...] | None:
        """What `flat` returns where that is a recording on a GPU, None elsewhere; has no effect but its results."""
        recorded = isinstance(self._call, CudaFunction) and self._gpu == torch.cuda.current_device()
        return self._call.ahead(inputs) if recorded else None  # type: ignore[union-attr]

    def _run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        results = self.flat([inputs[name] for name in self.input_names])
        return {port.name: torch.as_tensor(results[port.leaf]) for port in self.interface.outputs}

    def _write(self, folder: Path) -> None:
        self.program.save(folder / "program")
