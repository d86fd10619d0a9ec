"""What the page shows, as columns of numbers and one table of strings: small in the file and fast to read."""

from __future__ import annotations

from typing import Any

from graphwright.ir.diff import UNTRACKED, Hunk
from graphwright.ir.format import format_bytes, format_call
from graphwright.ir.record import NodeRecord, Rewrite
from graphwright.ir.snapshot import Snapshot
from graphwright.passes.misses import MissRecord, grouped_misses
from graphwright.passes.trace import PassRecord, Trace

_NO_MODULE = "_empty_nn_module_stack"
"""What torch.export writes where it lost track of the module."""


def page_data(trace: Trace, title: str = "") -> dict[str, Any]:
    """A trace as the page's script takes it.

    Args:
        trace: The trace.
        title: Heading of the page; the program's name where left out.
    """
    tables = _Tables()
    passes = [tables.pass_(record) for record in trace.records]
    name = trace.records[0].before.name if trace.records else "program"
    return {
        "title": title or name,
        "passes": passes,
        "nodes": tables.nodes,
        "rewrites": tables.rewrites,
        "snapshots": tables.snapshots,
        "sources": trace.sources.to_json(),
        "strings": list(tables.strings),
    }


class _Tables:
    """Everything that is stored once and referred to by number."""

    def __init__(self) -> None:
        self.strings: dict[str, int] = {}
        self.nodes: dict[str, list[Any]] = {
            key: [] for key in ("name", "op", "call", "type", "path", "source", "inputs", "bytes")
        }
        self.rewrites: dict[str, list[Any]] = {
            key: [] for key in ("pass", "rule", "site", "source", "removed", "added", "replaced")
        }
        self.snapshots: list[dict[str, Any]] = []
        self._nodes: dict[tuple[NodeRecord, int], int] = {}
        self._snapshots: dict[int, int] = {}

    def string(self, text: str) -> int:
        return self.strings.setdefault(text, len(self.strings))

    def node(self, record: NodeRecord, size: int = 0) -> int:
        """Number of a node; a record that occurs in several snapshots is stored once."""
        key = record, size
        if key not in self._nodes:
            self._nodes[key] = len(self._nodes)
            texts = (record.name, record.operation, format_call(record), record.type, module_of(record), record.source)
            for column, text in zip(self.nodes, texts, strict=False):
                self.nodes[column].append(self.string(text))
            self.nodes["inputs"].append([self.string(name) for name in dict.fromkeys(record.inputs())])
            self.nodes["bytes"].append(size)
        return self._nodes[key]

    def snapshot(self, snapshot: Snapshot) -> int:
        if id(snapshot) not in self._snapshots:
            self._snapshots[id(snapshot)] = len(self.snapshots)
            sizes = {record.name: record.bytes for record in snapshot.state}
            nodes = [self.node(r, sizes.get(r.target, 0) if r.op == "get_attr" else 0) for r in snapshot.nodes]
            self.snapshots.append({"nodes": nodes, "bytes": sum(sizes.values())})
        return self._snapshots[id(snapshot)]

    def pass_(self, record: PassRecord) -> dict[str, Any]:
        diff = record.diff
        hunks = [self.hunk(hunk) for hunk in (*diff.hunks, *diff.untracked)]
        return {
            "name": record.name,
            "ms": round(1000 * record.seconds, 3),
            "numerics": _number(record.notes.get("numerics")),
            "before": self.snapshot(record.before),
            "after": self.snapshot(record.after),
            "ops": list(diff.ops.items()),
            "renamed": [[self.string(old), self.string(new)] for old, new in diff.changes.renamed],
            "hunks": hunks,
            "state": [_state(old, new) for old, new in diff.state],
            "misses": [self.misses(group) for group in grouped_misses(record.misses)],
        }

    def hunk(self, hunk: Hunk) -> dict[str, Any]:
        return {
            "rule": hunk.first.rule,
            "untracked": hunk.first.pass_name == UNTRACKED,
            "sites": hunk.sites,
            "source": hunk.first.source,
            "rewrites": [self.rewrite(rewrite) for rewrite in hunk.rewrites],
        }

    def rewrite(self, rewrite: Rewrite) -> int:
        columns = self.rewrites
        for column, text in (
            ("pass", rewrite.pass_name), ("rule", rewrite.rule), ("site", rewrite.site), ("source", rewrite.source)
        ):  # fmt: skip
            columns[column].append(self.string(text))
        columns["removed"].append([self.node(record) for record in rewrite.removed])
        columns["added"].append([self.node(record) for record in rewrite.added])
        columns["replaced"].append([[self.string(old), self.string(new)] for old, new in rewrite.replaced])
        return len(columns["pass"]) - 1

    def misses(self, group: list[MissRecord]) -> dict[str, Any]:
        """Misses that differ in the layer only; the first stands for all."""
        first = group[0]
        return {
            "rule": first.rule,
            "reason": first.reason or first.message,
            "hint": first.hint or "",
            "pattern": first.pattern,
            "span": list(first.span),
            "score": first.score,
            "sites": [
                [self.string(text) for text in (miss.root, miss.culprit or "", miss.module, miss.source)]
                for miss in group
            ],
        }


def _state(old: Any, new: Any) -> dict[str, Any]:
    """A change of the state as text for both sides, None where absent."""
    name = (new or old).name
    return {"name": name, "before": _state_text(old), "after": _state_text(new)}


def _state_text(entry: Any) -> str | None:
    return f"{entry.type}  {format_bytes(entry.bytes)}" if entry is not None else None


def _number(value: Any) -> str | None:
    """A measured difference as text; JSON has no infinity."""
    return f"{float(value):.2g}" if isinstance(value, (int, float)) else None


def module_of(record: NodeRecord) -> str:
    """Path of the module that a node is shown in; a weight that has none of its own is shown in its owner."""
    path = "" if record.path.startswith(_NO_MODULE) else record.path
    return path or (record.target.rpartition(".")[0] if record.op == "get_attr" else "")
