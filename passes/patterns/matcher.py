"""The matcher: solves a pattern's goals depth first, undoes bindings on the way back, keeps the nearest miss."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from torch.fx import Graph, Node

from graphwright.ir.node import where
from graphwright.passes.patterns.constants import as_number
from graphwright.passes.patterns.expressions import Expr, Goal, same, show
from graphwright.passes.patterns.hints import hint_for
from graphwright.passes.patterns.match import Match, Miss, Rejected
from graphwright.passes.patterns.outputs import OtherOutput, first_outside_user
from graphwright.passes.patterns.rule import Rule

Stack = tuple[Goal, Any] | None
"""Goals still to solve, as a linked list, so that alternatives share their tails."""

Mark = tuple[int, int, int]


class Matcher:
    """Matches one rule at given nodes.

    Args:
        rule: The rule, or its class.
        state: Tensors of the program, so that constants stored there compare as numbers.
    """

    def __init__(self, rule: Rule | type[Rule], state: Mapping[str, Any] | None = None) -> None:
        self.rule = rule() if isinstance(rule, type) else rule
        self.state = state or {}

    def match(self, node: Node) -> Match | Miss:
        """Match the pattern with its root at `node`; never raises for a graph that does not fit."""
        return Search(self.rule, self.state, node).run()


class Search:
    """One attempt at one root: the bindings so far, the nodes matched so far, the nearest miss so far."""

    def __init__(self, rule: Rule, state: Mapping[str, Any], root: Node) -> None:
        self.rule, self.state, self.root = rule, state, root
        self.pattern = rule.compiled
        self._bound: dict[Hashable, Any] = {}
        self._trail: list[Hashable] = []
        self._matched: list[Node] = []
        self._skipped: list[Node] = []
        self._steps = 0
        self._complete = False
        self._best = (-1, False)
        self._failure: tuple[Expr, str, Node] = (self.pattern.outputs[0], "", root)
        self._match: Match | None = None

    def run(self) -> Match | Miss:
        """Search for the first whole match that the rule's check accepts."""
        stack: Stack = None
        for output in reversed(self.pattern.outputs[1:]):
            stack = ((OtherOutput(output), None, None), stack)
        self._solve(((self.pattern.outputs[0], self.root, None), stack))
        if self._match is not None:
            return self._match
        return self._miss()

    # ---- what expressions use ----------------------------------------------------------------

    def is_bound(self, key: Hashable) -> bool:
        """Whether a capture, tag or shared expression has a value."""
        return key in self._bound

    def value(self, key: Hashable) -> Any:
        """Value of a bound key, None if it has none."""
        return self._bound.get(key)

    def bind(self, key: Hashable, value: Any) -> None:
        """Give a key its value until the search goes back past this point."""
        self._bound[key] = value
        self._trail.append(key)

    def claim(self, node: Node) -> None:
        """Count a node as matched."""
        self._matched.append(node)

    def skip(self, node: Node) -> None:
        """Note a node that the pattern looks through; it may have other users."""
        self._skipped.append(node)

    def number(self, value: Any) -> float | int | None:
        """The number that a literal or constant stands for, None if it is none."""
        return as_number(value, self.state)

    def text(self, expr: Expr) -> str:
        """An expression as the pattern's text has it."""
        return self.pattern.text.text[slice(*self.pattern.text.span(expr))]

    def fail(
        self, expr: Expr, reason: Callable[[], str], culprit: Any, owner: Node | None = None, *, found: int = 0
    ) -> None:
        """Report why `expr` does not match; only the report with most matched nodes is kept.

        Args:
            expr: What failed.
            reason: Gives the sentence; called only if the report is kept.
            culprit: The node to blame; anything else blames `owner`.
            owner: The node with the value among its arguments.
            found: Matched nodes to count besides those claimed.
        """
        score = (len(self._matched) + found, self._complete)
        if score > self._best:
            self._best = score
            blamed = culprit if isinstance(culprit, Node) else owner
            self._failure = (expr, reason(), blamed or self.root)

    # ---- the search --------------------------------------------------------------------------

    def _solve(self, stack: Stack) -> bool:
        if stack is None:
            return self._accept()
        (expr, value, owner), rest = stack
        self._steps += 1
        if self._steps > self.rule.budget:
            return False
        if expr.shared:
            if self.is_bound(id(expr)):
                return self._same_again(expr, value, owner) and self._solve(rest)
            self.bind(id(expr), value)
        mark = self._mark()
        for goals in expr.attempts(value, owner, self):
            below = rest
            for goal in reversed(goals):
                below = (goal, below)
            if self._solve(below):
                return True
            self._undo(mark)
        return False

    def _same_again(self, expr: Expr, value: Any, owner: Node | None) -> bool:
        before = self.value(id(expr))
        if same(before, value):
            return True
        self.fail(expr, lambda: f"{self.text(expr)} is {show(before)} before and {show(value)} here", value, owner)
        return False

    def _mark(self) -> Mark:
        return len(self._trail), len(self._matched), len(self._skipped)

    def _undo(self, mark: Mark) -> None:
        trail, matched, skipped = mark
        while len(self._trail) > trail:
            del self._bound[self._trail.pop()]
        del self._matched[matched:]
        del self._skipped[skipped:]

    # ---- a whole match -----------------------------------------------------------------------

    def _accept(self) -> bool:
        """Whether a complete set of bindings is a match; if not, the search goes on.

        What fails here is a nearer miss than what fails before, with as many nodes matched.
        """
        self._complete = True
        self._match = self._checked_match()
        self._complete = False
        return self._match is not None

    def _checked_match(self) -> Match | None:
        outputs = tuple(self.value(id(output)) for output in self.pattern.outputs)
        if not (self.rule.allow_shared or self._inner_nodes_are_private(outputs)):
            return None
        captures = {name: self.value(name) for name in self.pattern.captures}
        if len(outputs) > 1 and not self._inputs_come_first(outputs, captures):
            return None
        tags = {key[1]: value for key, value in self._bound.items() if isinstance(key, tuple)}
        nodes = tuple(sorted({*self._matched, *self._skipped}))
        match = Match(self.rule.name, outputs, nodes, captures, tags, self.state)
        try:
            self.rule.check(match)
        except Rejected as rejection:
            reason = rejection.what
            self.fail(self._part(rejection.culprit), lambda: reason, rejection.culprit or self.root)
            return None
        return match

    def _part(self, culprit: Node | None) -> Expr:
        """The expression that a node was matched by, for the caret; the root if there is none."""
        for key, value in self._bound.items():
            if value is culprit and isinstance(key, str):
                return self.pattern.captures[key]
        return self.pattern.outputs[0]

    def _inner_nodes_are_private(self, outputs: tuple[Node, ...]) -> bool:
        inside = {*self._matched, *self._skipped}
        for node in self._matched:
            if node in outputs:
                continue
            for user in node.users:
                if user not in inside:
                    used, by = (
                        show(node),
                        "returned by the program" if user.op == "output" else f"used by {where(user)}",
                    )
                    self.fail(self._owner(node), lambda used=used, by=by: f"{used} is also {by}", user)  # type: ignore[misc]
                    return False
        return True

    def _owner(self, node: Node) -> Expr:
        """The call expression that matched a node."""
        for expr in self.pattern.calls:
            if self.value(id(expr)) is node:
                return expr
        return self.pattern.outputs[0]

    def _inputs_come_first(self, outputs: tuple[Node, ...], captures: Mapping[str, Any]) -> bool:
        """Several outputs are replaced at one place: after all inputs, before the first user of an output."""
        user = first_outside_user(outputs, {*self._matched, *self._skipped})
        late = next((v for v in captures.values() if user and isinstance(v, Node) and not v < user), None)
        if late is not None and user is not None:
            self.fail(self._part(late), lambda: f"{show(late)} comes after {where(user)}, which uses an output", late)
        return late is None

    def _miss(self) -> Miss:
        text = self.pattern.text
        expr, reason, culprit = self._failure
        hint = hint_for(culprit, expr.targets() or ())
        if self._steps > self.rule.budget:
            reason = f"gave up after {self.rule.budget} steps; nearest: {reason}"
            hint = f"set {self.rule.name}.budget higher, or make the pattern more specific"
        return Miss(self.rule.name, self.root, reason, culprit, max(self._best[0], 0), text.text, text.span(expr), hint)


def find(rule: Rule | type[Rule], graph: Graph, state: Mapping[str, Any] | None = None) -> list[Match | Miss]:
    """Match a rule at every node that calls one of its root ops, in graph order; the graph stays as it is."""
    matcher = Matcher(rule, state)
    return [matcher.match(node) for node in roots(matcher.rule, graph)]


def roots(rule: Rule, graph: Graph) -> list[Node]:
    """Nodes that can be the root of a match, in graph order, looked up in fx's own index."""
    targets = rule.compiled.roots
    found = [node for t in targets for node in graph.find_nodes(op="call_function", target=t, sort=False)]
    return sorted(found)
