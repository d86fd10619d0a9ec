"""Comparison of a lowered or rewritten model with its reference, on several shapes and paddings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from graphwright.ir.errors import InputError, MismatchError
from graphwright.ir.program import Program
from graphwright.lowering.artifact import Artifact
from graphwright.lowering.interface import Interface, Port
from graphwright.lowering.samples import Sample, dim_groups, masks, samples

Runnable = torch.nn.Module | Program | Artifact
Outputs = dict[str, torch.Tensor]

# Largest difference that rounding explains, per unit of the largest value of the output. Each is a number of steps of
# the type (1.2e-7, 9.8e-4, 7.8e-3): sums in another order differ by a step or so, and this grows with the depth.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}


@dataclass(frozen=True)
class Row:
    """One output in one case.

    Args:
        case: Label of the inputs.
        output: Name of the output.
        shape: Its sizes.
        difference: Largest absolute difference at the compared positions.
        allowed: Largest difference accepted.
        error: What went wrong instead, such as another shape.
        skipped: Why there is nothing to compare: the reference itself cannot run the case.
    """

    case: str
    output: str
    shape: tuple[int, ...] = ()
    difference: float = 0.0
    allowed: float = 0.0
    error: str = ""
    skipped: str = ""

    @property
    def ok(self) -> bool:
        """Whether the output agrees."""
        return not self.error and self.difference <= self.allowed


@dataclass(frozen=True)
class Comparison:
    """All outputs in all cases; `str()` is a table with one line per case."""

    rows: tuple[Row, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether everything agrees."""
        return all(row.ok for row in self.rows)

    @property
    def worst(self) -> Row | None:
        """The row that is furthest off, in units of what is allowed."""
        return max(self.rows, key=lambda r: (bool(r.error), r.difference / (r.allowed or 1e-300)), default=None)

    @property
    def largest_difference(self) -> float:
        """Largest absolute difference of all outputs."""
        return max((row.difference for row in self.rows), default=0.0)

    def __str__(self) -> str:
        width = max((len(case) for case in self._cases()), default=4)
        lines = [f"{'case':{width}}  outputs  largest difference  allowed   result"]
        for case in self._cases():
            rows = [row for row in self.rows if row.case == case]
            worst = Comparison(tuple(rows)).worst
            assert worst is not None
            lines.append(
                f"{case:{width}}  {len(rows):7}  {worst.difference:18.2e}  {worst.allowed:8.1e}  {_verdict(worst)}"
            )
        return "\n".join(lines)

    def _cases(self) -> list[str]:
        return list(dict.fromkeys(row.case for row in self.rows))


def compare(
    reference: Runnable,
    candidate: Runnable,
    *,
    inputs: Iterable[Mapping[str, Any]] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    padded: bool = False,
    raise_on_mismatch: bool = True,
) -> Comparison:
    """Compare the results of two models on several inputs.

    Args:
        reference: What is right: the unmodified module, or a Program or Artifact.
        candidate: What is to be checked: a Program, an Artifact, or a module.
        inputs: Calls as keyword arguments of the original `forward`. By default they are made from the captured
            example: several batch sizes and lengths, caches of several lengths and empty, and, where there is a mask,
            padding right, left and scattered. Sizes that the reference itself cannot run are reported as such.
        rtol: Difference allowed per unit of the output's largest value; by default that of its type (`TOLERANCES`).
        atol: Difference allowed in any case; by default a tenth of `rtol`, for outputs that are nearly zero.
        padded: Compare padded positions too. What a model computes there means nothing, and depends on how a row
            without any key to attend to is treated.
        raise_on_mismatch: Raise, rather than only report.

    Returns:
        The comparison.

    Raises:
        MismatchError: Names the output, the case and the difference.
        InputError: No inputs can be made: neither side is a Program or Artifact.
    """
    interface = _interface(reference, candidate)
    cases = samples(interface) if inputs is None else _given(interface, inputs)
    rows: list[Row] = []
    for i, case in enumerate(cases):
        try:
            expected = _run(reference, interface, case.inputs)
        except Exception as error:
            if i == 0 or inputs is not None:
                raise
            rows.append(Row(case.label, "-", skipped=f"{type(error).__name__}: {error}"))
            continue
        try:
            actual = _run(candidate, interface, case.inputs)
        except Exception as error:
            rows.append(Row(case.label, "-", error=f"{type(error).__name__}: {error}"))
            continue
        real = {} if padded else _real_positions(interface, case, expected)
        rows += _rows(interface.outputs, case.label, expected, actual, real, (rtol, atol))
    result = Comparison(tuple(rows))
    if raise_on_mismatch and not result.ok:
        raise _mismatch(result)
    return result


def _verdict(row: Row) -> str:
    if row.skipped:
        return f"not compared, the reference fails: {_short(row.skipped)}"
    return "ok" if row.ok else _short(row.error) or f"MISMATCH in {row.output}"


def _short(text: str) -> str:
    return text.split("\n")[0][:80]


def _mismatch(result: Comparison) -> MismatchError:
    worst = result.worst
    assert worst is not None
    reason = worst.error or f"largest difference {worst.difference:.3g}, allowed {worst.allowed:.3g}"
    return MismatchError(
        f"the results differ: output '{worst.output}' in the case '{worst.case}'",
        why=f"{reason}\n{result}",
        remedies=["run the passes with the Numerics instrument to find the first that changes the results"],
    )


def _interface(*sides: Runnable) -> Interface:
    for side in reversed(sides):
        if isinstance(side, Artifact):
            return side.interface
        if isinstance(side, Program):
            return Interface.of(side)
    raise InputError(
        "compare needs a Program or an Artifact on one side", remedies=["capture one of the two models first"]
    )


def _given(interface: Interface, inputs: Iterable[Mapping[str, Any]]) -> list[Sample]:
    return [Sample(f"inputs {i}", interface.flatten(**call)) for i, call in enumerate(inputs)]


def _run(side: Runnable, interface: Interface, inputs: Mapping[str, torch.Tensor]) -> Outputs:
    """Outputs by name; inputs are copied first, as a module may write to its cache."""
    copies = {name: tensor.clone() for name, tensor in inputs.items()}
    if isinstance(side, Artifact):
        return side.run(**copies)
    args, kwargs = interface.arguments(copies)
    with torch.no_grad():
        result = side.run(*args, **kwargs) if isinstance(side, Program) else side(*args, **kwargs)
    return interface.results(result)


def _rows(
    ports: Sequence[Port],
    case: str,
    expected: Outputs,
    actual: Outputs,
    real: Mapping[str, torch.Tensor],
    tolerances: tuple[float | None, float | None],
) -> Iterator[Row]:
    for port in ports:
        want, have = expected[port.name].detach().cpu(), actual[port.name].detach().cpu()
        row = Row(case, port.name, tuple(want.shape))
        if want.shape != have.shape or want.dtype != have.dtype:
            error = f"'{port.name}' is {have.dtype} {list(have.shape)}, not {want.dtype} {list(want.shape)}"
            yield Row(case, port.name, row.shape, error=error)
        else:
            yield _row(row, want, have, real.get(port.name), tolerances)


def _row(row: Row, want: torch.Tensor, have: torch.Tensor, real: torch.Tensor | None, tolerances: Any) -> Row:
    if real is not None:
        want, have = want[real.expand_as(want)], have[real.expand_as(have)]
    rtol, atol = tolerances
    rtol = TOLERANCES.get(want.dtype, 0.0) if rtol is None else rtol  # integers must agree exactly
    atol = TOLERANCES.get(want.dtype, 0.0) / 10 if atol is None else atol
    wide = want.dtype if want.is_complex() else torch.float64
    want, have = want.to(wide), have.to(wide)
    same = (want == have) | (want.isnan() & have.isnan())
    gap = (want - have).abs().masked_fill(same, 0).nan_to_num(nan=torch.inf)
    finite = want[want.isfinite()].abs()
    allowed = atol + rtol * (float(finite.max()) if finite.numel() else 0.0)
    return Row(row.case, row.output, row.shape, float(gap.max()) if gap.numel() else 0.0, allowed)


def _real_positions(interface: Interface, case: Sample, expected: Outputs) -> dict[str, torch.Tensor]:
    """Output -> which positions are real, in a shape that broadcasts to the output's.

    An output follows a mask if its first size is the mask's rows, and another one the mask's columns or, with a
    cache, the length of the new tokens, which are the mask's last columns.
    """
    real: dict[str, torch.Tensor] = {}
    for port in interface.outputs:
        found = ((mask, _axis(interface, port, mask)) for mask in masks(interface))
        mask, axis = next(((mask, axis) for mask, axis in found if axis), (None, 0))
        if mask is not None:
            shape = expected[port.name].shape
            last = case.inputs[mask.name].bool()[:, -shape[axis] :]
            real[port.name] = last.reshape([size if i in (0, axis) else 1 for i, size in enumerate(shape)])
    return real


def _axis(interface: Interface, port: Port, mask: Port) -> int:
    """The axis of an output that runs along the columns of a mask, 0 for none."""
    groups = dim_groups(interface)
    sizes, (rows, columns) = ([groups.get(str(size), size) for size in p.shape] for p in (port, mask))
    if not sizes or sizes[0] != rows or not isinstance(columns, str):
        return 0
    lengths = [columns, *columns.split(" + ")]
    return next((i for i, size in enumerate(sizes) if i and size in lengths), 0)
