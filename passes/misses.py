"""Near misses as data: free of references to the graph, serialisable, and grouped by repeated layer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from graphwright.ir.isomorphism import wildcard

_NODE_SUFFIX = re.compile(r"(%\w*?)_\d+\b")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class MissRecord:
    """Why a rule did not match at a node.

    Args:
        message: The whole as one line of text; the only field that misses of plain function passes have.
        rule: Name of the rule.
        root: Name of the node where the match was tried.
        reason: One sentence.
        culprit: Name of the node to blame, None if there is none.
        module: Module path of the culprit.
        source: Source line of the culprit.
        score: Number of nodes that did match.
        hint: What may help, if known.
        pattern: The pattern as text.
        span: Start and end, within `pattern`, of the part that failed.
    """

    message: str
    rule: str = ""
    root: str = ""
    reason: str = ""
    culprit: str | None = None
    module: str = ""
    source: str = ""
    score: int = 0
    hint: str | None = None
    pattern: str = ""
    span: tuple[int, int] = (0, 0)

    @staticmethod
    def of(miss: Any) -> MissRecord:
        """The record of what a pass returned: a `Miss` of a pattern rule, a record, or anything with a text."""
        from graphwright.passes.patterns.explain import miss_dict
        from graphwright.passes.patterns.match import Miss

        if isinstance(miss, Miss):
            fields = miss_dict(miss)
            return MissRecord(**fields | {"message": str(miss), "span": miss.span})
        return miss if isinstance(miss, MissRecord) else MissRecord(str(miss))

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON-able dictionary; only the message where there is nothing else."""
        return asdict(self) | {"span": list(self.span)} if self.rule else {"message": self.message}

    @staticmethod
    def from_json(fields: Any) -> MissRecord | str:
        """Read what `to_json` gave; a miss that is only a message comes back as text.

        Raises:
            TypeError: It is not a record.
        """
        if not fields.get("rule"):
            return str(fields["message"])
        start, end = fields["span"]
        return MissRecord(**{**fields, "span": (int(start), int(end))})

    def __str__(self) -> str:
        return self.message


def grouped_misses(misses: Iterable[Any]) -> list[list[MissRecord]]:
    """Misses that differ in layer index only together, nearest first."""
    groups: dict[Any, list[MissRecord]] = {}
    for record in sorted(map(MissRecord.of, misses), key=lambda miss: -miss.score):
        groups.setdefault(_key(record), []).append(record)
    return list(groups.values())


def _key(miss: MissRecord) -> tuple[Any, ...]:
    reason = _NUMBER.sub("#", _NODE_SUFFIX.sub(r"\1", miss.reason or miss.message))
    return miss.rule, reason, miss.span, wildcard(miss.module), miss.source
