"""The optimised program against the unmodified model, in float64."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch.utils import _pytree as pytree

from benchmarks.coverage.cases import Case, cases
from benchmarks.coverage.precision import Float64, double_leaves, double_model, double_program, uncached
from benchmarks.coverage.rows import Row
from graphwright.ir.errors import InputError
from graphwright.ir.inputs import check_leaves
from graphwright.ir.program import Program
from graphwright.passes.canonicalize.pass_ import Canonicalize
from graphwright.passes.pipeline import Pipeline

# Both sides compute in float64 throughout, so they differ by rounding: 1e-16, times what two layers with scaled
# weights amplify it by (up to 1e5 was seen). A wrong mask, scale or head changes the result in the first digits.
TOLERANCE = 1e-10
# A deep model with scaled weights may amplify rounding further. What a change of its weights by one rounding does to
# the original itself is measured then, and this many times that is allowed.
ROUNDINGS = 100
# A constant that the model computes in float32 is captured or folded in float32. Below this it may be the only
# difference, and original, captured and optimised program are compared step by step.
FLOAT32 = 1e-5


def compare(row: Row, model: torch.nn.Module, captured: Program, optimised: Program) -> None:
    """Fill in the row's differences, refusals and wrong cases."""
    original = _original(double_model(model), captured)
    others = _Others(model, captured)
    after = _runner(optimised)
    for case in cases(captured):
        try:
            expected = _run(original, case)
        except Exception as error:  # the model does not take inputs like these: nothing to compare with
            row.skipped[case.name] = _text(error)
            continue
        try:
            check_leaves(captured.placeholders, case.leaves, captured.dims, captured.guards)
        except InputError as error:
            row.refused[case.name] = _text(error)
            continue
        _record(row, case, expected, after, others)


def _record(row: Row, case: Case, expected: list[Any], after: Callable[..., Any], others: _Others) -> None:
    value = _difference(after, case, expected)
    if isinstance(value, float) and FLOAT32 > value > TOLERANCE:
        value = others.apart(case)
    if isinstance(value, float):
        row.differences[case.name] = value
        if value <= TOLERANCE or value <= ROUNDINGS * difference(expected, _run(others.disturbed, case), case.mask):
            return
    if isinstance(value, str) and value.startswith(InputError.__name__):
        row.refused[case.name] = value
        return
    captured = _difference(others.captured, case, expected)
    blame = "passes" if isinstance(captured, float) and captured <= TOLERANCE else "capture"
    row.wrong[case.name] = f"{_show(value)} in the {blame} (before the passes: {_show(captured)})"


def _difference(function: Callable[..., Any], case: Case, expected: list[Any]) -> float | str:
    """The difference, or what is raised."""
    try:
        return difference(expected, _run(function, case), case.mask)
    except Exception as error:
        return _text(error)


def _show(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.1e}"


class _Others:
    """What else is run where a program differs, to find out why; made when it is needed."""

    def __init__(self, model: torch.nn.Module, program: Program) -> None:
        self.model, self.program = model, program

    def apart(self, case: Case) -> float:
        """The largest difference between original and captured program, and between that and the optimised one.

        Each is measured where constants that one side has computed in float32 are the same on the other: in the
        model's own precision, and in float64 without folding constants.
        """
        with torch.no_grad():
            first = difference(
                self.native(_copied(case.leaves)), self.program.run_flat(_copied(case.leaves)), case.mask
            )
        return max(first, difference(_run(self.captured, case), _run(self.unfolded, case), case.mask))

    @property
    def native(self) -> Callable[[list[Any]], list[Any]]:
        """The original in the precision that it was captured in."""
        return _original(self.model, self.program)

    @cached_property
    def captured(self) -> Callable[[list[Any]], list[Any]]:
        """The program before the passes."""
        return _runner(self.program)

    @cached_property
    def unfolded(self) -> Callable[[list[Any]], list[Any]]:
        """The program optimised without folded constants: those that the model computes in float32 stay so."""
        passes = [replace(p, fold_limit=0) if isinstance(p, Canonicalize) else p for p in Pipeline("default").passes]
        return _runner(Pipeline(passes).run(self.program).program)

    @cached_property
    def disturbed(self) -> Callable[[list[Any]], list[Any]]:
        """The original with every weight changed by one rounding."""
        return _original(_disturbed(self.model), self.program)


def _disturbed(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of the model in float64 with every weight changed by one rounding."""
    copied = double_model(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            if parameter.is_floating_point():
                parameter.copy_(torch.nextafter(parameter, torch.full_like(parameter, float("inf"))))
    return copied


def _original(model: torch.nn.Module, program: Program) -> Callable[[list[Any]], list[Any]]:
    def run(leaves: list[Any]) -> list[Any]:
        args, kwargs = pytree.tree_unflatten(leaves, program.signature.in_spec)
        return pytree.tree_leaves(model(*args, **kwargs), is_leaf=lambda value: value is None)

    return run


def _runner(program: Program) -> Callable[[list[Any]], list[Any]]:
    return double_program(program).run_flat


def _run(function: Callable[[list[Any]], list[Any]], case: Case) -> list[Any]:
    """Results as flat leaves; random numbers are the same in every run."""
    import numpy

    torch.manual_seed(3)
    numpy.random.seed(3)
    random.seed(3)
    leaves = _copied(double_leaves(case.leaves))
    with torch.no_grad(), uncached(), Float64():
        return function(leaves)


def _copied(leaves: list[Any]) -> list[Any]:
    return [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]


def difference(expected: list[Any], found: list[Any], mask: torch.Tensor | None) -> float:
    """Largest difference of any result, relative to the largest value in that result.

    Padded positions do not count, nor do values that are not finite in the original: a row without anything to attend
    to is undefined.

    Returns:
        inf where the number, shape or finiteness of the results differs.
    """
    pairs = [(a, b) for a, b in zip(expected, found, strict=False) if isinstance(a, torch.Tensor)]
    if len(expected) != len(found) or any(not isinstance(b, torch.Tensor) or a.shape != b.shape for a, b in pairs):
        return float("inf")
    return max((_relative(_real(a, mask), _real(b, mask)) for a, b in pairs), default=0.0)


def _real(tensor: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The entries at positions that are not padding, where a tensor has one entry per position."""
    if mask is None or tensor.dim() < 2 or tensor.shape[0] != mask.shape[0]:
        return tensor
    dim = next((i for i in range(1, min(tensor.dim(), 3)) if tensor.shape[i] == mask.shape[1]), None)
    return tensor if dim is None else tensor.movedim(dim, 1)[mask.bool()]


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    if not a.numel():
        return 0.0
    if not (a.is_floating_point() or a.is_complex()):
        return float((a != b).any())
    kept = a.isfinite()
    a, b = a[kept], b[kept]
    if not a.numel():
        return 0.0
    value = float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))
    return value if value == value else float("inf")


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
