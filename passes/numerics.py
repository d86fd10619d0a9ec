"""Numerics: compares a program's results with the original after each pass that changed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Interpreter, Node

from graphwright.ir.errors import MismatchError
from graphwright.ir.node import where
from graphwright.ir.program import Program
from graphwright.ir.record import Rewrite
from graphwright.passes.instrument import Instrument

if TYPE_CHECKING:
    from graphwright.passes.base import Pass
    from graphwright.passes.trace import PassRecord

_RELATIVE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


class Numerics(Instrument):
    """Runs the example inputs after each changing pass and stops at the first result that is off.

    A difference may be `atol + rtol * (largest magnitude in the original tensor)`; NaNs and infinities must be in the
    same places. The error names the pass and the first rewrite whose value differs.

    Args:
        rtol: Relative tolerance; None takes 1e-9 for float64, 1e-4 for float32, 1e-2 for float16, 5e-2 for bfloat16.
        atol: Absolute tolerance.
    """

    def __init__(self, rtol: float | None = None, atol: float = 1e-6) -> None:
        self.rtol, self.atol = rtol, atol
        self._expected: list[Any] = []
        self._before: Program | None = None

    def start(self, program: Program) -> None:
        """Run the original."""
        self._before = program.clone()
        self._expected = run_example(self._before)

    def after_pass(self, pass_: Pass, program: Program, record: PassRecord) -> None:
        """Run the changed program and compare.

        Raises:
            MismatchError: Names result, pass and site.
        """
        if not record.changed:
            return
        actual = run_example(program)
        found = [difference(a, b, self.rtol, self.atol) for a, b in zip(self._expected, actual, strict=True)]
        wrong = next((i for i, (reason, _) in enumerate(found) if reason), None)
        if wrong is not None:
            raise MismatchError(
                f"pass '{record.name}' changes result {wrong} of '{program.name}': {found[wrong][0]}",
                at=self._culprit(program, record.rewrites),
                remedies=["run the pass alone on the program before it", "raise rtol if the difference is rounding"],
            )
        record.notes["numerics"] = max((error for _, error in found), default=0.0)
        self._before = program.clone()

    def _culprit(self, program: Program, rewrites: Sequence[Rewrite]) -> str | None:
        """The first rewrite, or else the first node, whose value is off, in execution order."""
        if self._before is None:
            return None
        before, after = values_of(self._before), values_of(program)
        pairs = {name: name for name in before if name in after}
        sites: dict[str, Rewrite] = {}
        for rewrite in rewrites:
            for old, new in rewrite.replaced:
                if old in before and new in after:
                    pairs[old], sites[old] = new, rewrite
        for node in self._before.graph.nodes:
            if node.name in pairs:
                reason, _ = difference(before[node.name], after[pairs[node.name]], self.rtol, self.atol)
                if reason:
                    return _describe(sites.get(node.name), node, reason)
        return None


def _describe(rewrite: Rewrite | None, node: Node, reason: str) -> str:
    if rewrite is None:
        return f"{where(node)}: {reason}"
    place = ", ".join(part for part in (rewrite.site, rewrite.source) if part)
    return f"rule {rewrite.rule}, %{node.name}" + (f" ({place})" if place else "") + f": {reason}"


def _inputs(program: Program) -> list[Any]:
    """The example's leaves; tensors are copied, since a program may write to its inputs."""
    return [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in program.example.leaves()]


def run_example(program: Program) -> list[Any]:
    """Flat results of a program on its example inputs, with a fixed random seed."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return program.run_flat(_inputs(program))


def values_of(program: Program) -> dict[str, Any]:
    """The value of each node by name when the example inputs are run."""
    recorder = _Recorder(program)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        recorder.run(*_inputs(program), enable_io_processing=False)
    return recorder.values


class _Recorder(Interpreter):
    """Runs a program node by node and keeps every value."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.module)
        self.values: dict[str, Any] = {}

    def run_node(self, n: Node) -> Any:
        """Run one node; views are copied, so that later writes do not change what was seen."""
        result = super().run_node(n)
        self.values[n.name] = result.clone() if isinstance(result, torch.Tensor) else result
        return result


def difference(expected: Any, actual: Any, rtol: float | None, atol: float) -> tuple[str | None, float]:
    """Why `actual` may not stand for `expected` (None if it may), and the largest absolute difference."""
    if isinstance(expected, (list, tuple)) and isinstance(actual, (list, tuple)):
        if len(expected) != len(actual):
            return f"{len(actual)} values instead of {len(expected)}", float("inf")
        found = [difference(a, b, rtol, atol) for a, b in zip(expected, actual, strict=True)]
        reason = next((reason for reason, _ in found if reason), None)
        return reason, max((error for _, error in found), default=0.0)
    if not isinstance(expected, torch.Tensor) or not isinstance(actual, torch.Tensor):
        same = type(expected) is type(actual) and expected == actual
        return (None, 0.0) if same else (f"{actual!r} instead of {expected!r}", float("inf"))
    if expected.dtype != actual.dtype or expected.shape != actual.shape:
        return f"{_kind(actual)} instead of {_kind(expected)}", float("inf")
    return _tensor_difference(expected, actual, rtol, atol)


def _kind(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"


def _tensor_difference(
    expected: torch.Tensor, actual: torch.Tensor, rtol: float | None, atol: float
) -> tuple[str | None, float]:
    relative = _RELATIVE.get(expected.dtype, 0.0) if rtol is None else rtol
    if not expected.dtype.is_floating_point and not expected.dtype.is_complex:
        relative = atol = 0.0
    wide = torch.complex128 if expected.dtype.is_complex else torch.float64
    a, b = expected.detach().to(wide), actual.detach().to(wide)
    same = (a == b) | (a.isnan() & b.isnan())
    errors = torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=float("inf"))
    finite = a[a.isfinite()].abs()
    worst = float(errors.max()) if errors.numel() else 0.0
    allowed = atol + relative * (float(finite.max()) if finite.numel() else 0.0)
    return (None if worst <= allowed else f"largest difference {worst:.3g}, allowed {allowed:.3g}"), worst
