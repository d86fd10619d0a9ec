"""A program beside the artifact made from it: what each node became, in the form of a diff."""

from __future__ import annotations

from collections.abc import Iterator

from graphwright.ir.diff import Changes, GraphDiff, diff, group
from graphwright.ir.program import Program
from graphwright.ir.record import NodeRecord, Rewrite
from graphwright.ir.snapshot import Snapshot
from graphwright.lowering.artifact import Artifact


def lowering_diff(program: Program, artifact: Artifact) -> GraphDiff:
    """Compare a program with an artifact by provenance: which operators each node became.

    Nodes that the artifact has as they are (as an eager one does) are compared by structure instead. Nodes without
    operators were folded into weights, are sizes, or went in the target's own passes.
    """
    before, after = Snapshot.of(program), artifact.snapshot()
    if any(record.op == "call_function" and record.target.startswith("aten.") for record in after.nodes):
        return diff(before, after)
    rewrites = list(_rewrites(before, after, artifact))
    removed = tuple(record for rewrite in rewrites for record in rewrite.removed)
    added = tuple(record for rewrite in rewrites for record in rewrite.added)
    counts = (len(before.nodes), len(after.nodes))
    return GraphDiff(after.name, counts, Changes(removed=removed, added=added), group(rewrites), dims=before.dims)


def _rewrites(before: Snapshot, after: Snapshot, artifact: Artifact) -> Iterator[Rewrite]:
    """One rewrite per node of the program, then one per node that only the target's passes made, then the rest."""
    operators, known = after.by_name, before.by_name
    made = {name: [operators[op] for op in ops if op in operators] for name, ops in artifact.provenance.items()}
    title = f"lower to {artifact.target}"
    for record in before.nodes:
        if record.op == "call_function":
            emitted = made.get(record.name, [])
            yield _rewrite(title, record.operation if emitted else "(no operator)", [record], emitted)
    for name, emitted in made.items():
        if name not in known and emitted:
            yield _rewrite(title, "(made by the target's passes)", [], emitted)
    claimed = {record.name for emitted in made.values() for record in emitted}
    for record in after.nodes:
        if record.op == "call_function" and record.name not in claimed:
            yield _rewrite(title, "(interface)", [], [record])


def _rewrite(title: str, rule: str, removed: list[NodeRecord], added: list[NodeRecord]) -> Rewrite:
    place = (removed or added)[0]
    return Rewrite(title, rule, place.path, place.source, tuple(removed), tuple(added))
