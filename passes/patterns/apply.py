"""Apply rules to a program until none matches any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch.fx import Node

from graphwright.ir.errors import GraphwrightError, PassError
from graphwright.ir.node import where
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.passes.patterns.match import Match, Miss, Rejected, Value
from graphwright.passes.patterns.matcher import Matcher, roots
from graphwright.passes.patterns.outputs import first_outside_user
from graphwright.passes.patterns.rule import Rule


@dataclass
class RuleReport:
    """What applying rules did: rewrites per rule, and the misses that are left, nearest first."""

    applied: Counter[str] = field(default_factory=Counter)
    misses: list[Miss] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether anything was rewritten."""
        return bool(self.applied)


def apply_rules(rules: Iterable[Rule | type[Rule]], program: Program, rewriter: Rewriter) -> RuleReport:
    """Rewrite every match, each in its own transaction, sweep after sweep until a sweep changes nothing.

    Args:
        rules: Tried in this order; within a rule, matches are taken in graph order.
        program: The program to edit.
        rewriter: The gateway to edit it through.

    Raises:
        PassError: The program lacks an invariant that a rule requires, or the rules undo one another.
    """
    matchers = [Matcher(rule, program.state) for rule in rules]
    for matcher in matchers:
        _check_requirements(matcher.rule, program)
    report = RuleReport()
    budget = 4 * len(program.graph.nodes) + 100
    changed = True
    while changed:
        report.misses = []
        changed = False
        for matcher in matchers:
            changed |= _sweep(matcher, program, rewriter, report)
            if report.applied.total() > budget:
                raise PassError(
                    f"rules do not come to an end: stopped after {report.applied.total()} rewrites",
                    why=", ".join(f"{rule} {count} times" for rule, count in report.applied.most_common(3)),
                    remedies=["make each rule's result one that no rule of the set matches"],
                )
    report.misses.sort(key=lambda miss: -miss.score)
    return report


def _check_requirements(rule: Rule, program: Program) -> None:
    missing = rule.requires - program.invariants
    if missing:
        raise PassError(
            f"rule {rule.name} requires a program that is {', '.join(sorted(missing))}",
            remedies=["run canonicalize first"],
        )


def _sweep(matcher: Matcher, program: Program, rewriter: Rewriter, report: RuleReport) -> bool:
    """Try one rule at all its roots once; whether anything changed."""
    changed = False
    for node in roots(matcher.rule, program.graph):
        if node._erased:
            continue
        found = _matched(matcher, node, rewriter)
        miss = rewrite_match(matcher.rule, found, rewriter) if isinstance(found, Match) else found
        if miss is None:
            report.applied[matcher.rule.name] += 1
            changed = True
        else:
            report.misses.append(miss)
    return changed


def _matched(matcher: Matcher, node: Node, rewriter: Rewriter) -> Match | Miss:
    """Match a rule at a node; a check that fails, rather than refuses, is blamed on the rule and the node."""
    try:
        return matcher.match(node)
    except GraphwrightError:
        raise
    except Exception as error:
        raise PassError(
            f"rule {matcher.rule.name} of pass '{rewriter.pass_name}' failed: {type(error).__name__}: {error}",
            at=where(node),
            remedies=["report it with the reproducer that the pipeline's DumpDir writes"],
        ) from error


def rewrite_match(rule: Rule, match: Match, rewriter: Rewriter) -> Miss | None:
    """Rewrite one match in one transaction.

    Returns:
        None, or the miss when the rule's rewrite refused the match; the graph is then as before.
    """
    text = rule.compiled.text
    try:
        with rewriter.site(rule.name, match.nodes) as edit:
            if len(match.outputs) > 1:
                user = first_outside_user(match.outputs, set(match.nodes))
                if user is not None:
                    edit.insert_before(user)
            for old, new in zip(match.outputs, _results(rule, match, rule.rewrite(match, edit)), strict=True):
                if new is not old:
                    edit.replace(old, new)
    except Rejected as rejection:
        culprit = rejection.culprit or match.root
        span = (0, len(text.text))
        return Miss(rule.name, match.root, rejection.what, culprit, len(match.nodes), text.text, span)
    return None


def _results(rule: Rule, match: Match, returned: Any) -> list[Any]:
    """The values a rewrite returned, one per output."""
    values = list(returned) if isinstance(returned, (tuple, list)) else [returned]
    values = [value.node if isinstance(value, Value) else value for value in values]
    if len(values) != len(match.outputs) or any(value is None for value in values):
        raise PassError(
            f"rule {rule.name}: rewrite must return {len(match.outputs)} value(s), it returned {returned!r}",
            at=where(match.root),
        )
    return values
