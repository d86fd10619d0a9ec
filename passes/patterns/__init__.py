"""The pattern language: rules whose patterns are expressions, a matcher that says why it did not match.

| in a pattern | matches |
|---|---|
| a parameter `x` | any node or literal; every use is the same one; `m.x` in `check` and `rewrite` |
| `aten.softmax(x, -1)` | a call of any overload that binds, arguments by schema with defaults, axes up to their sign |
| `aten.softmax.int(x, -1)`, `ops.graphwright.f(x)` | exactly this overload; an op of another namespace |
| `x * 0.5 + y`, `x @ y`, `x[0]` | the calls these operators become; commutative ones in both orders |
| `0.5`, `torch.float32`, `[1, 2]`, `None`, `...` | an equal literal; anything |
| `number(0.7071, 1e-4)`, `number(eps)`, `const(w)` | a constant number, near a value or captured; a weight or literal |
| `tensor(x, rank=4)`, `where(x, test, reason)` | what passes a test |
| `maybe(lambda y: aten.relu(y), x, tag="t")` | `relu(x)` or `x`; `m.tag("t")` is True or False |
| `any_of(a, b, tag="t")`, `any_of(tag="t", mul=a, div=b)` | alternatives; `m.tag("t")` is their position or name |
| `view_of(x)`, `through(x, aten.clone)` | `x` behind any number of relayouts, or of these ops |
| `aten.relu(x).named("h")` | the same, also captured as `m.h` |
| the same expression object twice | one node with two uses |
| a tuple of expressions | several outputs, which may be used outside the match |

`graphwright.passes.patterns.idioms` has ready expressions: casts, squares, scalings, switched-off dropout.
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
