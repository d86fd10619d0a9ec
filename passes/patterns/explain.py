"""Where rules match, and why they nearly match elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from graphwright.ir.node import module_path, source_line
from graphwright.ir.program import Program
from graphwright.passes.patterns.match import Match, Miss
from graphwright.passes.patterns.matcher import find
from graphwright.passes.patterns.rule import Rule

_NUMBER = re.compile(r"\d+")
_NODE_SUFFIX = re.compile(r"(%\w*?)_\d+\b")


@dataclass(frozen=True)
class Explanation:
    """Per rule: its matches and misses; `str()` groups them by repeated layer, nearest miss first."""

    rules: tuple[RuleFindings, ...]
    misses_shown: int = 3

    def __str__(self) -> str:
        return "\n\n".join(rule.text(self.misses_shown) for rule in self.rules)

    def as_dict(self) -> list[dict[str, Any]]:
        """The same as JSON-ready data."""
        return [rule.as_dict() for rule in self.rules]


@dataclass(frozen=True)
class RuleFindings:
    """What one rule finds in a program."""

    name: str
    pattern: str
    ops: tuple[str, ...]
    missing: tuple[str, ...]
    matches: tuple[Match, ...]
    misses: tuple[Miss, ...]

    def text(self, shown: int) -> str:
        """Lines for people; at most `shown` groups of misses."""
        lines = [f"{self.name}: {_count(self.matches, 'match', 'es')}, {_count(self.misses, 'miss', 'es')}"]
        if self.missing:
            lines.append(f"  the program is not {', '.join(self.missing)} yet, as the rule requires: run canonicalize")
        if not self.matches and not self.misses:
            lines += [f"  no node calls {' or '.join(self.ops)}, where the pattern starts", f"    {self.pattern}"]
        for group in grouped(self.matches, lambda match: (_place(match.root),)):
            lines.append(f"  match{_times(group)} at {_places([match.root for match in group])}")
        groups = grouped(self.misses, _miss_key)
        for group in groups[:shown]:
            lines += _miss_lines(group)
        if len(groups) > shown:
            rest = sum(map(len, groups[shown:]))
            lines.append(f"  and {rest} more, further off")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "rule": self.name,
            "pattern": self.pattern,
            "matches": [{"root": m.root.name, "module": module_path(m.root)} for m in self.matches],
            "misses": [miss_dict(miss) for miss in self.misses],
        }


def explain(program: Program, rules: Iterable[Rule | type[Rule]], *, shown: int = 3) -> Explanation:
    """Match rules without changing the program.

    Args:
        program: The program to look at.
        rules: Rules or rule classes.
        shown: How many groups of misses the text shows per rule.
    """
    return Explanation(tuple(_findings(rule, program) for rule in rules), shown)


def _findings(rule: Rule | type[Rule], program: Program) -> RuleFindings:
    rule = rule() if isinstance(rule, type) else rule
    found = find(rule, program.graph, program.state)
    misses = sorted((miss for miss in found if isinstance(miss, Miss)), key=lambda miss: -miss.score)
    packets = dict.fromkeys(str(getattr(t, "overloadpacket", getattr(t, "__name__", t))) for t in rule.compiled.roots)
    return RuleFindings(
        name=rule.name,
        pattern=rule.compiled.text.text,
        ops=tuple(packets),
        missing=tuple(sorted(rule.requires - program.invariants)),
        matches=tuple(match for match in found if isinstance(match, Match)),
        misses=tuple(misses),
    )


def explain_misses(misses: Iterable[Miss], *, shown: int = 3) -> str:
    """Text for misses that a pass collected, nearest first."""
    groups = grouped(sorted(misses, key=lambda miss: -miss.score), _miss_key)
    return "\n".join(line for group in groups[:shown] for line in _miss_lines(group))


def miss_dict(miss: Miss) -> dict[str, Any]:
    """A miss as JSON-ready data."""
    return {
        "rule": miss.rule,
        "root": miss.root.name,
        "reason": miss.reason,
        "culprit": miss.culprit.name if miss.culprit is not None else None,
        "module": miss.module,
        "source": miss.source,
        "score": miss.score,
        "hint": miss.hint,
        "pattern": miss.pattern,
        "span": list(miss.span),
    }


def grouped(items: Iterable[Any], key: Any) -> list[list[Any]]:
    """Items with equal keys together, in order of first appearance."""
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def join_paths(paths: Iterable[str]) -> str:
    """Module paths that differ in numbers as one: `layer.0.self`, `layer.1.self` -> `layer.{0..1}.self`."""
    paths = list(dict.fromkeys(paths))
    columns = list(zip(*(map(int, _NUMBER.findall(path)) for path in paths), strict=True))
    ranges = iter([_range(sorted(set(column))) for column in columns])
    return _NUMBER.sub(lambda _: next(ranges), paths[0])


def _range(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    contiguous = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{{{numbers[0]}..{numbers[-1]}}}" if contiguous else f"{{{','.join(map(str, numbers))}}}"


def _place(node: Node) -> tuple[str, str]:
    return _NUMBER.sub("#", module_path(node)), source_line(node)


def _places(nodes: list[Node]) -> str:
    path, line = join_paths(module_path(node) for node in nodes), source_line(nodes[0])
    return ", ".join(part for part in (path, line) if part) or f"%{nodes[0].name}"


def _miss_key(miss: Miss) -> tuple[Any, ...]:
    reason = _NUMBER.sub("#", _NODE_SUFFIX.sub(r"\1", miss.reason))
    return reason, miss.span, _place(miss.culprit or miss.root)


def _miss_lines(group: list[Miss]) -> list[str]:
    miss = group[0]
    lines = [f"  miss{_times(group)} after {_count(range(miss.score), 'node')}: {miss.reason}"]
    lines.append(f"    at {_places([one.culprit or one.root for one in group])}")
    lines += [f"    {line}" for line in miss.caret().splitlines()]
    return [*lines, f"    hint: {miss.hint}"] if miss.hint else lines


def _times(group: list[Any]) -> str:
    return f" x{len(group)}" if len(group) > 1 else ""


def _count(items: Any, noun: str, plural: str = "s") -> str:
    return f"{len(items)} {noun}{plural if len(items) != 1 else ''}"
