"""What a pipeline did: one record per pass, serialisable, and the diffs made from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from graphwright.ir.diff import GraphDiff, diff
from graphwright.ir.errors import FileFormatError, GraphwrightError
from graphwright.ir.record import Rewrite
from graphwright.ir.snapshot import Snapshot
from graphwright.passes.misses import MissRecord
from graphwright.passes.sources import Sources


@dataclass(frozen=True)
class PassRecord:
    """One run of one pass.

    Args:
        name: The pass as it is written in a pipeline, options included.
        rewrites: What its rules did, in order.
        before: The program before it.
        after: The program after it; the same object if nothing changed.
        seconds: Time it took.
        misses: What nearly matched and why it did not.
        notes: Findings of instruments by name, such as `numerics`: the largest difference so far.
    """

    name: str
    rewrites: tuple[Rewrite, ...]
    before: Snapshot
    after: Snapshot
    seconds: float = 0.0
    misses: tuple[Any, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def changed(self) -> bool:
        """Whether the program after it is another than before."""
        return self.after is not self.before

    @cached_property
    def diff(self) -> GraphDiff:
        """The graph diff of this pass."""
        return diff(self.before, self.after, self.rewrites)

    def miss_lines(self) -> list[str]:
        """The misses as text, in their order."""
        return [str(miss) for miss in self.misses]


@dataclass
class Trace:
    """Records of the passes of one pipeline, in the order they ran.

    Args:
        records: One record per pass.
        sources: Excerpts of the model's source; empty unless an instrument such as DumpDir collected them.
    """

    records: list[PassRecord] = field(default_factory=list)
    sources: Sources = field(default_factory=Sources)

    def append(self, record: PassRecord) -> None:
        """Add the record of a pass that ran."""
        self.records.append(record)

    def diff(self, name: str | None = None) -> GraphDiff:
        """The diff of the whole pipeline, or from before the first run of pass `name` to after its last.

        Raises:
            GraphwrightError: No pass of that name ran.
        """
        chosen = [r for r in self.records if name is None or name in (r.name, r.name.split("{")[0])]
        if not chosen and (name is not None or not self.records):
            ran = ", ".join(record.name for record in self.records) or "none"
            raise GraphwrightError(f"pass '{name}' did not run" if name else "no pass ran", why=f"these ran: {ran}")
        first, last = self.records.index(chosen[0]), len(self.records) - self.records[::-1].index(chosen[-1])
        rewrites = [rewrite for record in self.records[first:last] for rewrite in record.rewrites]
        whole = diff(chosen[0].before, chosen[-1].after, rewrites)
        names = {rewrite.pass_name for record in chosen for rewrite in record.rewrites}
        return replace(whole, hunks=tuple(hunk for hunk in whole.hunks if hunk.first.pass_name in names))

    @property
    def seconds(self) -> float:
        """Time that all passes took."""
        return sum(record.seconds for record in self.records)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary; each distinct snapshot is stored once."""
        snapshots: dict[int, int] = {}
        kept: list[Snapshot] = []
        for snapshot in (s for record in self.records for s in (record.before, record.after)):
            if id(snapshot) not in snapshots:
                snapshots[id(snapshot)] = len(kept)
                kept.append(snapshot)
        return {
            "format": "graphwright-trace",
            "version": 1,
            "snapshots": [snapshot.to_json() for snapshot in kept],
            "passes": [_record_json(record, snapshots) for record in self.records],
            "sources": self.sources.to_json(),
        }

    def to_html(self) -> str:
        """One self-contained page: passes, changes, both graphs side by side, sources, near misses."""
        from graphwright.passes.viewer.page import page_html

        return page_html(self)

    def to_model_explorer(self) -> dict[str, Any]:
        """The graphs before and after each changing pass, as Google Model Explorer reads them."""
        from graphwright.passes.viewer.model_explorer import model_explorer_graphs

        return model_explorer_graphs(self)

    @staticmethod
    def from_json(fields: Any) -> Trace:
        """Read what `to_json` gave; misses come back as records, or as text where they were text.

        Raises:
            FileFormatError: It is not a trace.
        """
        try:
            if fields["format"] != "graphwright-trace" or fields["version"] != 1:
                raise FileFormatError("not a trace of this version", why=f"{fields['format']} {fields['version']}")
            snapshots = [Snapshot.from_json(snapshot) for snapshot in fields["snapshots"]]
            records = [_record_from_json(record, snapshots) for record in fields["passes"]]
            return Trace(records, Sources.from_json(fields["sources"]))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError("not a trace", why=f"{type(error).__name__}: {error}") from error

    @staticmethod
    def load(path: str | Path) -> Trace:
        """Read a `trace.json`.

        Raises:
            FileFormatError: The file is missing, truncated, or not a trace.
        """
        try:
            return Trace.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise FileFormatError("cannot read the trace", at=str(path), why=str(error)) from error


def _record_json(record: PassRecord, snapshots: dict[int, int]) -> dict[str, Any]:
    return {
        "name": record.name,
        "before": snapshots[id(record.before)],
        "after": snapshots[id(record.after)],
        "seconds": record.seconds,
        "misses": [MissRecord.of(miss).to_json() for miss in record.misses],
        "notes": record.notes,
        "rewrites": [rewrite.to_json() for rewrite in record.rewrites],
    }


def _record_from_json(fields: Any, snapshots: Sequence[Snapshot]) -> PassRecord:
    return PassRecord(
        name=str(fields["name"]),
        rewrites=tuple(Rewrite.from_json(rewrite) for rewrite in fields["rewrites"]),
        before=snapshots[int(fields["before"])],
        after=snapshots[int(fields["after"])],
        seconds=float(fields["seconds"]),
        misses=tuple(MissRecord.from_json(miss) for miss in fields["misses"]),
        notes=dict(fields["notes"]),
    )
