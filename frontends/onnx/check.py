"""Comparison of an imported program with ONNX Runtime on the example inputs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphwright.ir.errors import MismatchError
from graphwright.ir.program import Program

logger = logging.getLogger("graphwright")

TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
"""Largest difference relative to the largest value. ONNX Runtime fuses operators and sums in another order; an operator
that is understood wrongly is off by orders of magnitude more. Some of its double kernels compute in float."""


def agree(program: Program, path: Path, names: Sequence[str], tensors: Sequence[torch.Tensor], fixed: Any) -> None:
    """Run both on the example.

    Args:
        program: The imported program.
        path: The file that it came from.
        names: Names of the inputs in the file.
        tensors: The example, in the same order.
        fixed: Values of inputs that the program does not have.

    Raises:
        MismatchError: An output differs; says which.
    """
    try:
        import onnxruntime as runtime
    except ImportError:
        logger.warning("%s was not compared with ONNX Runtime, which is not installed", path.name)
        return
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feeds = {name: _array(value) for name, value in zip(names, tensors, strict=True)}
        feeds |= {name: np.array(value).reshape(_sizes(session, name)) for name, value in (fixed or {}).items()}
        expected = session.run(None, feeds)
    except Exception as error:  # operators and types that ONNX Runtime does not implement
        logger.warning("%s was not compared with ONNX Runtime: %s", path.name, str(error).splitlines()[0])
        return
    with torch.no_grad():
        actual = [value for value in program.run_flat(list(tensors)) if isinstance(value, torch.Tensor)]
    for output, want, have in zip(session.get_outputs(), expected, actual, strict=True):
        _compare(output.name, torch.as_tensor(np.asarray(want)), have, path)


def _array(value: torch.Tensor) -> Any:
    if value.dtype is torch.bfloat16:
        raise TypeError("bfloat16 inputs cannot be passed as arrays")
    return value.numpy()


def _sizes(session: Any, name: str) -> list[int]:
    return [1 for _ in next(value for value in session.get_inputs() if value.name == name).shape]


def _compare(name: str, want: torch.Tensor, have: torch.Tensor, path: Path) -> None:
    remedies = ["report this file; verify=False imports it all the same"]
    if want.shape != have.shape:
        raise MismatchError(
            f"output '{name}' of the imported program has other sizes than in ONNX Runtime", at=path.name,
            why=f"{list(have.shape)} instead of {list(want.shape)}", remedies=remedies,
        )  # fmt: skip
    if not want.numel():
        return
    left, right = want.double(), have.double()
    both = torch.isfinite(left) & torch.isfinite(right)
    scale = float(left[both].abs().max().clamp(min=1)) if both.any() else 1.0
    unequal = (left != right) & ~both & ~(left.isnan() & right.isnan())
    worst = float((left - right)[both].abs().max()) / scale if both.any() else 0.0
    if unequal.any() or worst > TOLERANCE.get(have.dtype, 0.0):
        raise MismatchError(
            f"output '{name}' of the imported program differs from ONNX Runtime", at=path.name,
            why=f"relative difference {worst:.1e} on the example inputs", remedies=remedies,
        )  # fmt: skip
