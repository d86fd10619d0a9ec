"""Lower one architecture for some targets; run as `python -m benchmarks.targets.examine MODEL TARGET...`.

Prints one row per target as soon as it is known, so that what the parent has read survives a crash.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import TextIO

import torch

from benchmarks.targets.models import Case, build
from benchmarks.targets.rows import FAILED, LEGAL, REJECTED, VERIFIED, WRONG, Row, row_text
from graphwright.ir.errors import MissingDependencyError
from graphwright.lowering.compare import compare
from graphwright.lowering.registry import target
from graphwright.lowering.support import SupportReport

# Per unit of an output's largest value. Rounding of float32 through a few layers with weights twice their initial
# size stays below it; a wrong mask, scale or position is far above.
TOLERANCE = 2e-4


def main(name: str, targets: list[str], out: TextIO) -> None:
    """Print the rows of one architecture."""
    torch.set_num_threads(1)
    try:
        case: Case | None = build(name)
        problem = ""
    except Exception as error:
        case, problem = None, one_line(error)
    for label in targets:
        start = time.perf_counter()
        row = Row(name, label, FAILED, reason=f"not captured: {problem}") if case is None else _row(name, label, case)
        row = replace(row, seconds=round(time.perf_counter() - start, 1), versions=_versions())
        print(row_text(row), file=out, flush=True)


def _row(name: str, label: str, case: Case) -> Row:
    try:
        report = target(label).check(case.program)
        if not report.ok:
            return Row(name, label, REJECTED, reason="; ".join(_reasons(report)))
        artifact = target(label).lower(case.program)
    except Exception as error:
        return Row(name, label, FAILED, reason=one_line(error))
    try:
        result = compare(case.model, artifact, rtol=TOLERANCE, raise_on_mismatch=False)
    except MissingDependencyError as error:
        return Row(name, label, LEGAL, reason=one_line(error))
    except Exception as error:
        return Row(name, label, FAILED, reason=one_line(error))
    cases = len({row.case for row in result.rows if not row.skipped})
    worst = result.worst
    reason = "" if result.ok or worst is None else f"{worst.case}: {worst.error or worst.output}"
    return Row(name, label, VERIFIED if result.ok else WRONG, result.largest_difference, cases, reason)


def _reasons(report: SupportReport) -> Iterator[str]:
    for (op, reason, _), items in report.groups().items():
        yield f"{op}: {reason}, at {items[0]}"


def _versions() -> str:
    import transformers

    return f"torch {torch.__version__.partition('+')[0]} and transformers {transformers.__version__}"


def one_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], sys.argv[2:], sys.stdout)
