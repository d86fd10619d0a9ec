"""One row of the table per architecture, kept as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# How far an architecture came. The first three say nothing about Graphwright: there was nothing to capture.
NOT_BUILT, NO_INPUTS, NOT_EAGER = "not built", "no inputs", "does not run"
NOT_CAPTURED, PASS_FAILED, TIMEOUT, CRASH, DONE = "not captured", "pass failed", "timeout", "crash", "done"
EAGER_STATUSES = (NOT_CAPTURED, PASS_FAILED, TIMEOUT, CRASH, DONE)


@dataclass
class MissRow:
    """An attention that stayed unfused: where, why, and the op that is to blame."""

    site: str
    reason: str
    source: str = ""


@dataclass
class Row:
    """What was found out about one architecture.

    Args:
        model_type: As in a config file.
        class_name: The model's class.
        head: Kind of head.
        status: How far it came: one of the constants of this module.
        reason: Why not further, one line.
        level: How much the config had to stay like the defaults: 0 is the smallest.
        dtype: Precision it was captured in.
        dims: Names of the dynamic dimensions.
        softmaxes: All softmaxes of the canonical program, routers included.
        attentions: Those that are attention.
        fused: How many of these the pipeline fused.
        native: Attentions that the model calls as one op by itself.
        own: How many became `graphwright::attention`.
        misses: Those it did not.
        differences: Largest relative difference from the original, by case of inputs.
        refused: Cases of inputs that the original takes and the program refuses, with the reason.
        skipped: Cases of inputs that the original does not take either, with the reason.
        wrong: Cases whose difference is above the tolerance: `case: difference (captured or optimised)`.
        nodes: Nodes before and after the pipeline.
        seconds: Seconds spent, by stage.
        versions: The torch and transformers it was made with.
    """

    model_type: str
    class_name: str
    head: str
    status: str = DONE
    reason: str = ""
    level: int = 0
    dtype: str = ""
    dims: list[str] = field(default_factory=list)
    softmaxes: int = 0
    attentions: int = 0
    fused: int = 0
    native: int = 0
    own: int = 0
    misses: list[MissRow] = field(default_factory=list)
    differences: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    nodes: tuple[int, int] = (0, 0)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: str = ""

    @property
    def key(self) -> str:
        """`bert/BertModel`."""
        return f"{self.model_type}/{self.class_name}"

    @property
    def worst(self) -> float:
        """Largest difference over all cases, 0 if none was compared."""
        return max(self.differences.values(), default=0.0)


def read_rows(path: Path) -> dict[str, Row]:
    """Rows by key; a later line replaces an earlier one, and a line that was cut off is left out."""
    rows: dict[str, Row] = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            row = _row(json.loads(line))
        except (ValueError, TypeError):
            continue
        rows[row.key] = row
    return rows


def _row(values: dict[str, Any]) -> Row:
    values["misses"] = [MissRow(**miss) for miss in values.get("misses", ())]
    values["nodes"] = tuple(values.get("nodes", (0, 0)))
    return Row(**values)


def append_row(path: Path, row: Row) -> None:
    """Add one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file by these rows, sorted."""
    lines = [json.dumps(asdict(row)) for row in sorted(rows, key=lambda row: row.key)]
    scratch = path.with_suffix(".tmp")
    scratch.write_text("".join(line + "\n" for line in lines))
    scratch.replace(path)
