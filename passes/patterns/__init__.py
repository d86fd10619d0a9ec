"""The pattern language: rules whose patterns are expressions, a matcher that says why it did not match.

See `graphwright.passes.patterns.rule` for a rule, `expressions` and `combinators` for what a pattern may say.
"""

from graphwright.passes.patterns.apply import RuleReport, apply_rules
from graphwright.passes.patterns.combinators import any_of, const, maybe, number, tensor, through, view_of, where
from graphwright.passes.patterns.explain import Explanation, explain, explain_misses
from graphwright.passes.patterns.match import Match, Miss, Rejected, Value
from graphwright.passes.patterns.matcher import Matcher, find
from graphwright.passes.patterns.proxy import aten, call, ops
from graphwright.passes.patterns.rule import Rule

__all__ = [
    "Explanation",
    "Match",
    "Matcher",
    "Miss",
    "Rejected",
    "Rule",
    "RuleReport",
    "Value",
    "any_of",
    "apply_rules",
    "aten",
    "call",
    "const",
    "explain",
    "explain_misses",
    "find",
    "maybe",
    "number",
    "ops",
    "tensor",
    "through",
    "view_of",
    "where",
]
