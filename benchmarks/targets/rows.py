"""One row per architecture and target, kept as JSON lines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

VERIFIED, LEGAL, REJECTED, WRONG, FAILED = "verified", "legal", "rejected", "wrong", "failed"


@dataclass(frozen=True)
class Row:
    """What became of one architecture on one target.

    Args:
        model: `bert/BertModel`.
        target: Name of the target.
        status: `verified` if it agrees with the model, `legal` if it was emitted and cannot run here, `rejected` if
            the target says that it cannot express it, `wrong` if results differ, `failed` for any other error.
        difference: Largest difference from the model, where it was run.
        cases: Number of inputs compared: sizes and paddings.
        reason: Why it was rejected, or what failed.
        seconds: Time for this row.
        versions: The torch and transformers it was made with.
    """

    model: str
    target: str
    status: str
    difference: float = 0.0
    cases: int = 0
    reason: str = ""
    seconds: float = 0.0
    versions: str = ""


Rows = dict[tuple[str, str], Row]


def read_rows(path: Path) -> Rows:
    """Rows by model and target; a later line replaces an earlier one, and a line that was cut off is left out."""
    rows: Rows = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = Row(**json.loads(line))
        except (ValueError, TypeError):
            continue
        rows[row.model, row.target] = row
    return rows


def append_row(path: Path, row: Row) -> None:
    """Add one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(row_text(row) + "\n")


def row_text(row: Row) -> str:
    """A row as one line."""
    return json.dumps(asdict(row))
