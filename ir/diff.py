"""The difference of two programs, explained by the rewrites between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from graphwright.ir.errors import GraphwrightError
from graphwright.ir.isomorphism import canonical_form, collapse, wildcard
from graphwright.ir.matching import longest_increasing, match_nodes
from graphwright.ir.program import Dim
from graphwright.ir.record import NodeRecord, Rewrite
from graphwright.ir.replay import replay, with_inputs
from graphwright.ir.snapshot import Snapshot, StateRecord

UNTRACKED = "untracked edits"


@dataclass(frozen=True)
class Hunk:
    """Isomorphic rewrites of one rule, shown as one.

    Args:
        rewrites: The rewrites, in the order they happened.
    """

    rewrites: tuple[Rewrite, ...]

    @property
    def first(self) -> Rewrite:
        """The rewrite that stands for all."""
        return self.rewrites[0]

    @property
    def sites(self) -> list[str]:
        """Module paths of the rewrites, collapsed: `encoder.layer.{0..11}.attention`."""
        return collapse([rewrite.site for rewrite in self.rewrites])


@dataclass(frozen=True)
class Changes:
    """What separates two lists of nodes.

    Args:
        removed: Nodes of the first that are not in the second.
        added: Nodes of the second that are not in the first.
        changed: Pairs (old, new) of the same node with other arguments, type or provenance.
        renamed: Pairs (old name, new name) of the same node under another name.
        moved: Nodes (by new name) that are as before, at another place.
        places: Index in the second of each added, changed and moved node, by name.
    """

    removed: tuple[NodeRecord, ...] = ()
    added: tuple[NodeRecord, ...] = ()
    changed: tuple[tuple[NodeRecord, NodeRecord], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    moved: tuple[NodeRecord, ...] = ()
    places: tuple[tuple[int, NodeRecord], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.removed or self.added or self.changed or self.renamed or self.moved)


@dataclass(frozen=True)
class GraphDiff:
    """Difference of two snapshots; `str()` gives the grouped text.

    Args:
        name: Name of the second program.
        counts: Nodes before and after.
        changes: Everything that is needed to make the second from the first.
        hunks: The rewrites between them, grouped.
        untracked: What the rewrites do not explain, grouped by module.
        state: Changed entries of the state: (before, after), None where absent.
        dims: Dynamic dimensions of the second.
    """

    name: str
    counts: tuple[int, int]
    changes: Changes
    hunks: tuple[Hunk, ...] = ()
    untracked: tuple[Hunk, ...] = ()
    state: tuple[tuple[StateRecord | None, StateRecord | None], ...] = ()
    dims: tuple[Dim, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes or self.hunks or self.state)

    @cached_property
    def ops(self) -> dict[str, int]:
        """Change of the number of nodes by operation: what grew first, then what shrank, most first."""
        pairs = self.changes.changed
        return op_changes(
            (*self.changes.removed, *(a for a, _ in pairs)), (*self.changes.added, *(b for _, b in pairs))
        )

    def __str__(self) -> str:
        from graphwright.ir.format import format_diff

        return format_diff(self)


def diff(before: Snapshot, after: Snapshot, rewrites: Iterable[Rewrite] = ()) -> GraphDiff:
    """Compare two snapshots.

    Args:
        before: The first.
        after: The second.
        rewrites: The recorded rewrites that led from one to the other. Without any, nodes are matched by structure,
            and every difference is untracked; the programs need not be related.
    """
    recorded = tuple(rewrites)
    changes = compare(before.nodes, after.nodes, by_name=bool(recorded))
    expected = tuple(replay(before.nodes, recorded).values()) if recorded else ()
    return GraphDiff(
        name=after.name,
        counts=(len(before.nodes), len(after.nodes)),
        changes=changes,
        hunks=group(recorded),
        untracked=untracked_edits(compare(expected, after.nodes, by_name=True) if recorded else changes),
        state=_state_changes(before.state, after.state),
        dims=after.dims,
    )


def compare(before: Sequence[NodeRecord], after: Sequence[NodeRecord], *, by_name: bool) -> Changes:
    """Find what separates two lists of nodes; see `match_nodes` for `by_name`."""
    pairs = match_nodes(before, after, by_name=by_name)
    names = {before[i].name: after[j].name for i, j in pairs.items() if before[i].name != after[j].name}
    renamed = {i: _rename(before[i], names) if names else before[i] for i in pairs}
    same = [(i, j) for i, j in sorted(pairs.items()) if renamed[i] == after[j]]
    in_order = longest_increasing(j for _, j in same)
    matched = set(pairs.values())
    kept = {j for _, j in same}
    return Changes(
        removed=tuple(record for i, record in enumerate(before) if i not in pairs),
        added=tuple(record for j, record in enumerate(after) if j not in matched),
        changed=tuple((before[i], after[j]) for i, j in sorted(pairs.items()) if j not in kept),
        renamed=tuple(names.items()),
        moved=tuple(after[j] for j in sorted(kept - in_order)),
        places=tuple((j, record) for j, record in enumerate(after) if j not in in_order),
    )


def _rename(record: NodeRecord, names: Mapping[str, str]) -> NodeRecord:
    return with_inputs(replace(record, name=names.get(record.name, record.name)), names)


def apply(difference: GraphDiff, before: Snapshot) -> Snapshot:
    """Make the second snapshot from the first.

    Raises:
        GraphwrightError: `before` is not the snapshot that the diff was made from.
    """
    changes = difference.changes
    names = dict(changes.renamed)
    gone = {record.name for record in (*changes.removed, *(old for old, _ in changes.changed))}
    moved = {record.name for record in changes.moved}
    if len(before.nodes) != difference.counts[0] or not gone <= before.by_name.keys():
        raise GraphwrightError("the diff does not belong to this snapshot", at=before.name)
    nodes = [_rename(record, names) if names else record for record in before.nodes if record.name not in gone]
    nodes = [record for record in nodes if record.name not in moved]
    for position, record in changes.places:
        nodes.insert(position, record)
    state = {record.name: record for record in before.state}
    for old, new in difference.state:
        if old is not None:
            state.pop(old.name, None)
        if new is not None:
            state[new.name] = new
    return Snapshot(difference.name, tuple(nodes), tuple(state[name] for name in sorted(state)), difference.dims)


def group(rewrites: Iterable[Rewrite]) -> tuple[Hunk, ...]:
    """Isomorphic rewrites of one rule together, in order of first occurrence."""
    groups: dict[Hashable, list[Rewrite]] = {}
    for rewrite in rewrites:
        shape = canonical_form((*rewrite.removed, *rewrite.added))
        key = (rewrite.pass_name, rewrite.rule, wildcard(rewrite.site), rewrite.source, len(rewrite.removed), shape)
        groups.setdefault(key, []).append(rewrite)
    return tuple(Hunk(tuple(members)) for members in groups.values())


def untracked_edits(changes: Changes) -> tuple[Hunk, ...]:
    """Changes that no rewrite explains, as one nameless rewrite per module, grouped."""
    sites: dict[str, tuple[list[NodeRecord], list[NodeRecord]]] = {}
    for record in (*changes.removed, *(old for old, _ in changes.changed)):
        sites.setdefault(record.path, ([], []))[0].append(record)
    for record in (*changes.added, *(new for _, new in changes.changed)):
        sites.setdefault(record.path, ([], []))[1].append(record)
    return group(
        Rewrite(UNTRACKED, "untracked edit", path, (removed or added)[0].source, tuple(removed), tuple(added))
        for path, (removed, added) in sites.items()
    )


def op_changes(removed: Iterable[NodeRecord], added: Iterable[NodeRecord]) -> dict[str, int]:
    """Change of the number of nodes by operation: what grew first, then what shrank, most first."""
    counts = Counter(record.operation for record in added)
    counts.subtract(Counter(record.operation for record in removed))
    return {op: n for op, n in sorted(counts.items(), key=lambda item: (item[1] < 0, -abs(item[1]), item[0])) if n}


def _state_changes(
    before: Sequence[StateRecord], after: Sequence[StateRecord]
) -> tuple[tuple[StateRecord | None, StateRecord | None], ...]:
    old, new = {record.name: record for record in before}, {record.name: record for record in after}
    return tuple((old.get(name), new.get(name)) for name in sorted({*old, *new}) if old.get(name) != new.get(name))
