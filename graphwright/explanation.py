"""`explain`: where a pass or rule matches in a program, and why it does not elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphwright.ir.program import Program
    from graphwright.ir.record import Rewrite
    from graphwright.passes.base import Pass
    from graphwright.passes.patterns.match import Miss


@dataclass(frozen=True)
class PassFindings:
    """What one pass would do to a program.

    Args:
        name: The pass.
        prepared: Passes that were run first because it requires them.
        rewrites: What it would rewrite.
        misses: What nearly matches, nearest first.
    """

    name: str
    prepared: str
    rewrites: tuple[Rewrite, ...]
    misses: tuple[Miss, ...]

    def text(self, shown: int) -> str:
        """Lines for people; at most `shown` groups of misses."""
        from graphwright.passes.patterns.explain import explain_misses

        after = f" (after {self.prepared})" if self.prepared else ""
        head = f"{self.name}{after}: {len(self.rewrites)} rewritten, {len(self.misses)} missed"
        sites = [f"  {rule} x{len(group)} at {place}" for (rule, place), group in _by_place(self.rewrites).items()]
        near = explain_misses(self.misses, shown=shown)
        return "\n".join([head, *sites, *([near] if near else [])])

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON-ready data."""
        from graphwright.passes.patterns.explain import miss_dict

        return {
            "pass": self.name,
            "prepared": self.prepared,
            "rewrites": [{"rule": r.rule, "module": r.site, "source": r.source} for r in self.rewrites],
            "misses": [miss_dict(miss) for miss in self.misses],
        }


@dataclass(frozen=True)
class Explanation:
    """Findings per pass; `str()` is for people, `as_dict()` for machines."""

    passes: tuple[PassFindings, ...]
    shown: int = 5

    @property
    def misses(self) -> tuple[Miss, ...]:
        """The misses of all passes."""
        return tuple(miss for findings in self.passes for miss in findings.misses)

    def __str__(self) -> str:
        return "\n\n".join(findings.text(self.shown) for findings in self.passes)

    def as_dict(self) -> list[dict[str, Any]]:
        """JSON-ready data."""
        return [findings.as_dict() for findings in self.passes]


def explain(program: Program, what: Any = "default", *, shown: int = 5) -> Any:
    """Say where passes or rules match in `program` and what came nearest elsewhere. The program stays as it is.

    Args:
        program: The program to look at.
        what: Pipeline text (`fuse-attention`), a pass, or pattern rules (a Rule or several).
        shown: How many groups of misses the text shows.

    Returns:
        An explanation; print it.

    Raises:
        PipelineError: There is no such pass.
    """
    from graphwright.passes.patterns.explain import explain as explain_rules
    from graphwright.passes.patterns.rule import Rule
    from graphwright.passes.pipeline import Pipeline, flat_passes

    rules = list(what) if isinstance(what, (list, tuple)) else [what]
    if all(isinstance(rule, Rule) or (isinstance(rule, type) and issubclass(rule, Rule)) for rule in rules):
        return explain_rules(program, rules, shown=shown)
    scratch = program.clone()
    return Explanation(tuple(_findings(pass_, scratch) for pass_ in flat_passes(Pipeline(what).passes)), shown)


def _findings(pass_: Pass, program: Program) -> PassFindings:
    """Run a pass on a scratch program, after `canonicalize` if it needs that."""
    from graphwright.ir.rewriter import Rewriter
    from graphwright.passes.base import pass_name
    from graphwright.passes.pipeline import Pipeline

    prepared = ""
    if pass_.requires - program.invariants:
        prepared = "canonicalize"
        Pipeline(prepared).run(program, in_place=True)
    rewrites: list[Rewrite] = []
    misses = pass_.apply(program, Rewriter(program, rewrites.append, pass_name(pass_))) or ()
    program.invariants = (program.invariants - pass_.breaks) | pass_.establishes
    return PassFindings(str(pass_), prepared, tuple(rewrites), tuple(misses))


def _by_place(rewrites: Iterable[Rewrite]) -> dict[tuple[str, str], list[Rewrite]]:
    """Rewrites by rule and module, repeated layers joined."""
    import re

    from graphwright.passes.patterns.explain import join_paths

    groups: dict[tuple[str, str, str], list[Rewrite]] = {}
    for rewrite in rewrites:
        groups.setdefault((rewrite.rule, re.sub(r"\d+", "#", rewrite.site), rewrite.source), []).append(rewrite)
    return {
        (rule, ", ".join(part for part in (join_paths(r.site for r in group), source) if part) or "the model"): group
        for (rule, _, source), group in groups.items()
    }
