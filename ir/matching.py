"""Which node of one program is which node of another."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

from graphwright.ir.encoding import Encoded, substitute
from graphwright.ir.record import NodeRecord

Pairs = dict[int, int]

_DEPTHS = (2, 1, 0)


def match_nodes(before: Sequence[NodeRecord], after: Sequence[NodeRecord], *, by_name: bool) -> Pairs:
    """Match nodes of two programs one to one.

    Args:
        before: Nodes of one program.
        after: Nodes of the other.
        by_name: Names mean identity, as between two stages of one pipeline; otherwise nodes match by what surrounds
            them, so that programs with other names can be compared.

    Returns:
        Index in `before` -> index in `after`.
    """
    index = {record: j for j, record in enumerate(after)}
    pairs = {i: index[record] for i, record in enumerate(before) if record in index}
    if not by_name:
        _match_by_context(before, after, pairs)
    _match_by_name(before, after, pairs)
    return pairs


def _same_operation(a: NodeRecord, b: NodeRecord) -> bool:
    return a.op == b.op and a.target == b.target


def _match_by_context(before: Sequence[NodeRecord], after: Sequence[NodeRecord], pairs: Pairs) -> None:
    """Pair nodes with equal surroundings, the widest first; what is paired already anchors what is near it."""
    ids: dict[Hashable, int] = {}
    for depth in _DEPTHS:
        left = _labels(before, {i: k for k, i in enumerate(pairs)}, depth, ids)
        right = _labels(after, {j: k for k, j in enumerate(pairs.values())}, depth, ids)
        for label, nodes in left.items():
            partners = right.get(label, [])
            named = {after[j].name: j for j in partners}
            same = {i: named[before[i].name] for i in nodes if before[i].name in named}
            pairs.update(same)
            taken = set(same.values())
            rest = (i for i in nodes if i not in same), (j for j in partners if j not in taken)
            pairs.update(zip(*rest, strict=False))


def _match_by_name(before: Sequence[NodeRecord], after: Sequence[NodeRecord], pairs: Pairs) -> None:
    """Pair what is left with the same name and operation."""
    taken = set(pairs.values())
    index = {record.name: j for j, record in enumerate(after) if j not in taken}
    for i, record in enumerate(before):
        j = index.get(record.name)
        if i not in pairs and j is not None and _same_operation(record, after[j]):
            pairs[i] = j


def _labels(
    nodes: Sequence[NodeRecord], anchors: dict[int, int], depth: int, ids: dict[Hashable, int]
) -> dict[int, list[int]]:
    """Unanchored nodes by label: the operation, and the labels of inputs and users `depth` steps around."""
    free = [i for i in range(len(nodes)) if i not in anchors]
    labels = {
        record.name: _number(ids, ("anchor", anchors[i]) if i in anchors else _operation(record))
        for i, record in enumerate(nodes)
    }
    users: dict[str, list[str]] = defaultdict(list)
    for record in nodes if depth else ():
        for name in record.inputs():
            users[name].append(record.name)
    for _ in range(depth):
        wider = {nodes[i].name: _number(ids, _context(nodes[i], labels, users)) for i in free}
        labels.update(wider)
    groups: dict[int, list[int]] = defaultdict(list)
    for i in free:
        groups[labels[nodes[i].name]].append(i)
    return groups


def _operation(record: NodeRecord) -> Hashable:
    target = "" if record.op == "placeholder" else record.target
    return record.op, target, record.type, record.path


def _context(record: NodeRecord, labels: dict[str, int], users: dict[str, list[str]]) -> Hashable:
    def label(name: str) -> Encoded:
        return ("label", labels.get(name, -1))

    return (
        labels[record.name],
        tuple([substitute(value, label) for value in record.args]),
        tuple([(key, substitute(value, label)) for key, value in record.kwargs]),
        tuple(sorted(labels.get(user, -1) for user in users[record.name])),
    )


def _number(ids: dict[Hashable, int], key: Hashable) -> int:
    return ids.setdefault(key, len(ids))


def longest_increasing(values: Iterable[int]) -> set[int]:
    """The values of a longest increasing subsequence; all others have moved."""
    tails: list[int] = []
    parent: dict[int, int | None] = {}
    for value in values:
        position = bisect_left(tails, value)
        parent[value] = tails[position - 1] if position else None
        tails[position : position + 1] = [value]
    kept: set[int] = set()
    current = tails[-1] if tails else None
    while current is not None:
        kept.add(current)
        current = parent[current]
    return kept
