"""Programs and diffs as stable text: no ids, addresses or times, so that it can be kept as golden files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from graphwright.ir.diff import UNTRACKED, GraphDiff, Hunk, op_changes
from graphwright.ir.encoding import Encoded
from graphwright.ir.isomorphism import collapse
from graphwright.ir.program import Dim, Program
from graphwright.ir.record import NodeRecord
from graphwright.ir.snapshot import Snapshot, StateRecord

Level = Literal["summary", "sites", "hunks", "full"]

_TINY = 3
_SITES = 3


def format_diff(diff: GraphDiff, level: Level = "hunks") -> str:
    """A diff as text.

    Args:
        diff: The diff.
        level: `summary` has a line per pass with its rules and counts; `sites` a line per rule, with the places;
            `hunks` shows the nodes, except for rules that only remove or do tiny rewrites; `full` shows all nodes.
    """
    lines = [_title(diff)]
    hunks = (*diff.hunks, *diff.untracked)
    for name in dict.fromkeys(hunk.first.pass_name for hunk in hunks):
        lines += _pass(name, [hunk for hunk in hunks if hunk.first.pass_name == name], level)
    if diff.state:
        lines += ["== state ==", *(_state_line(old, new) for old, new in diff.state)]
    return "\n".join(lines) + "\n"


def _title(diff: GraphDiff) -> str:
    before, after = diff.counts
    if not diff:
        return f"{diff.name}: {after} nodes, no difference"
    renamed, moved = len(diff.changes.renamed), 0 if diff.hunks else len(diff.changes.moved)
    notes = f"{renamed} renamed" if renamed else "", f"{moved} moved" if moved else ""
    return _spaced(f"{diff.name}: {before} -> {after} nodes", *notes, _ops(diff.ops))


def _ops(changes: dict[str, int]) -> str:
    return "ops: " + "  ".join(f"{op} {count:+d}" for op, count in changes.items()) if changes else ""


def _spaced(*parts: str) -> str:
    return "  ".join(part for part in parts if part)


def _pass(name: str, hunks: Sequence[Hunk], level: Level) -> Iterator[str]:
    rewrites = [rewrite for hunk in hunks for rewrite in hunk.rewrites]
    changes = op_changes((r for w in rewrites for r in w.removed), (r for w in rewrites for r in w.added))
    yield _spaced(f"== {name} ==", _ops(changes))
    rules = {rule: [hunk for hunk in hunks if hunk.first.rule == rule] for rule in _rules(hunks)}
    if level == "summary":
        yield "  " + "  ".join(f"{rule} x{_count(group)}" for rule, group in rules.items())
        return
    for rule, group in rules.items():
        if level == "sites" or (level == "hunks" and all(_is_tiny(hunk) for hunk in group)):
            yield _rule_line(rule, group)
        else:
            for hunk in group:
                yield from _hunk(hunk)


def _rules(hunks: Sequence[Hunk]) -> list[str]:
    return list(dict.fromkeys(hunk.first.rule for hunk in hunks))


def _count(hunks: Iterable[Hunk]) -> int:
    return sum(len(hunk.rewrites) for hunk in hunks)


def _is_tiny(hunk: Hunk) -> bool:
    first = hunk.first
    return first.pass_name != UNTRACKED and (not first.added or len(first.removed) + len(first.added) <= _TINY)


def _rule_line(rule: str, hunks: Sequence[Hunk]) -> str:
    sites = [rewrite.site for hunk in hunks for rewrite in hunk.rewrites]
    sources = sorted({rewrite.source for hunk in hunks for rewrite in hunk.rewrites} - {""})
    return _spaced(
        f"@@ {rule}", f"x{len(sites)}", _some(_places(collapse(list(dict.fromkeys(sites))))), _some(sources), "@@"
    )


def _places(sites: Sequence[str]) -> list[str]:
    """Sites by name, the model itself only where there are others."""
    return [site or "(model)" for site in sites] if any(sites) else []


def _some(texts: Sequence[str]) -> str:
    """The first few of several texts."""
    shown = list(texts[:_SITES])
    more = len(texts) - len(shown)
    return ", ".join(shown) + (f" (+{more})" if shown and more else "")


def format_hunk(hunk: Hunk) -> str:
    """One hunk as text: its heading, and the nodes of its first rewrite."""
    return "\n".join(_hunk(hunk)) + "\n"


def _hunk(hunk: Hunk) -> Iterator[str]:
    first = hunk.first
    yield _spaced(f"@@ {first.rule}", f"x{len(hunk.rewrites)}", _some(_places(hunk.sites)), first.source, "@@")
    yield from _table([("-", record) for record in first.removed] + [("+", record) for record in first.added])


def _state_line(old: StateRecord | None, new: StateRecord | None) -> str:
    if old is None and new is not None:
        return f"+ state {new.name}: {new.type}  {format_bytes(new.bytes)}"
    if new is None and old is not None:
        return f"- state {old.name}: {old.type}  {format_bytes(old.bytes)}"
    if old is None or new is None:
        raise ValueError("a state change has a state before or after")
    sizes = f"{format_bytes(old.bytes)} -> {format_bytes(new.bytes)}"
    return f"~ state {new.name}: {old.type} -> {new.type}  {sizes}"


def format_bytes(count: int) -> str:
    """`512 B`, `1.5 KiB`, `89.1 MiB`, `2.0 GiB`."""
    size, units = float(count), iter(("KiB", "MiB", "GiB", "TiB"))
    unit = "B"
    while size >= 1024 and unit != "TiB":
        size, unit = size / 1024, next(units)
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def _table(rows: Sequence[tuple[str, NodeRecord]]) -> Iterator[str]:
    """Lines `- %name:  type  = op(args)`, the columns aligned."""
    name_width = max((len(record.name) for _, record in rows), default=0) + 2
    type_width = max((len(record.type) for _, record in rows), default=0)
    for sign, record in rows:
        yield f"{sign} %{record.name + ':':<{name_width}} {record.type:<{type_width}} = {format_call(record)}"


def format_call(record: NodeRecord) -> str:
    """What a node does: `softmax.int(%add_6, -1)`."""
    if record.op == "get_attr":
        return f"state({record.target})"
    if record.op == "placeholder":
        return f"input({record.target})"
    parts = [format_value(value) for value in record.args]
    parts += [f"{key}={format_value(value)}" for key, value in record.kwargs]
    return f"{record.operation}({', '.join(parts)})"


def format_value(encoded: Encoded) -> str:
    """An encoded argument as it would be written in Python, nodes as `%name`."""
    if isinstance(encoded, str):
        return f"%{encoded}"
    if not isinstance(encoded, tuple):
        return str(encoded)
    tag, *items = encoded
    if tag in ("list", "tuple"):
        inner = ", ".join(map(format_value, items))
        return f"[{inner}]" if tag == "list" else f"({inner}{',' if len(items) == 1 else ''})"
    if tag == "dict":
        return "{" + ", ".join(f"{format_value(key)}: {format_value(value)}" for key, value in items) + "}"
    return _format_leaf(tag, items)


def _format_leaf(tag: str, items: list[Encoded]) -> str:
    if tag == "slice":
        return f"slice({', '.join(map(format_value, items))})"
    if tag == "str":
        return repr(items[0])
    if tag == "complex":
        return f"complex({', '.join(items)})"
    if tag == "ellipsis":
        return "..."
    return str(items[0]).capitalize() if tag == "bool" else str(items[0])


def format_program(program: Program | Snapshot) -> str:
    """All nodes of a program, one a line: `%name: type = op(args)  # path  source`."""
    snapshot = program if isinstance(program, Snapshot) else Snapshot.of(program)
    size = sum(record.bytes for record in snapshot.state)
    lines = [
        f"{snapshot.name}: {len(snapshot.nodes)} nodes, {len(snapshot.state)} state entries ({format_bytes(size)})"
    ]
    lines += [f"dim {_format_dim(dim)}" for dim in snapshot.dims]
    width = max((len(record.name) + len(record.type) for record in snapshot.nodes), default=0)
    for record in snapshot.nodes:
        origin = _spaced(record.path, record.source)
        left = f"%{record.name}: {record.type}".ljust(min(width, 60) + 3)
        lines.append(f"{left} = {format_call(record)}" + (f"  # {origin}" if origin else ""))
    return "\n".join(lines) + "\n"


def _format_dim(dim: Dim) -> str:
    return f"{dim.name}: {dim.min} to {'any' if dim.max is None else dim.max}"
