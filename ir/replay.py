"""Replaying rewrites on a list of nodes: what a program must look like if nothing else changed it."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from graphwright.ir.encoding import Encoded, encode, substitute
from graphwright.ir.record import NodeRecord, Rewrite


def replay(nodes: Iterable[NodeRecord], rewrites: Iterable[Rewrite]) -> dict[str, NodeRecord]:
    """Nodes by name after `rewrites`, without their order.

    A rewrite redirects users, then its removed nodes go and its added nodes come.
    """
    replayed = _Replay(nodes)
    for rewrite in rewrites:
        for old, new in rewrite.replaced:
            replayed.redirect(old, new)
        for record in rewrite.removed:
            replayed.remove(record.name)
        for record in rewrite.added:
            replayed.add(record)
    return replayed.nodes


class _Replay:
    """Nodes by name, with an index of users."""

    def __init__(self, nodes: Iterable[NodeRecord]) -> None:
        self.nodes: dict[str, NodeRecord] = {}
        self.users: dict[str, set[str]] = defaultdict(set)
        for record in nodes:
            self.add(record)

    def add(self, record: NodeRecord) -> None:
        self.nodes[record.name] = record
        for name in record.inputs():
            self.users[name].add(record.name)

    def remove(self, name: str) -> None:
        record = self.nodes.pop(name, None)
        for used in record.inputs() if record else ():
            self.users[used].discard(name)

    def redirect(self, old: str, new: str) -> None:
        value = _value(new)
        for user in [name for name in self.users[old] if name != new]:
            record = self.nodes[user]
            self.remove(user)
            self.nodes[user] = record  # keeps the others in place
            self.add(with_inputs(record, {old: value}))


def with_inputs(record: NodeRecord, values: Mapping[str, Encoded]) -> NodeRecord:
    """A record with the references among `values` replaced."""

    def swap(name: str) -> Encoded:
        return values.get(name, name)

    args = tuple([substitute(value, swap) for value in record.args])
    kwargs = tuple([(key, substitute(value, swap)) for key, value in record.kwargs])
    return replace(record, args=args, kwargs=kwargs)


def _value(text: str) -> Encoded:
    """A replacement as encoded value: a node name, or a number."""
    return text if text.isidentifier() and text not in ("True", "False", "None") else encode(ast.literal_eval(text))
