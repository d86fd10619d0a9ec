"""The `canonicalize` pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.passes.base import Pass
from graphwright.passes.canonicalize import casts, noise, shapes
from graphwright.passes.canonicalize.cleanup import merge_duplicates, remove_dead
from graphwright.passes.canonicalize.constants import fold_constants
from graphwright.passes.canonicalize.functionalize import functionalize
from graphwright.passes.canonicalize.regions import inline_regions
from graphwright.passes.local import RuleTable, merge_tables, sweep


@cache
def rule_table() -> RuleTable:
    """All local rules of canonicalization."""
    return merge_tables((noise.TABLE, casts.TABLE, shapes.TABLE))


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Bring a program into canonical form; every rewrite is numerically exact.

    Inlines no-grad regions, makes in-place ops functional, removes asserts, copies, inactive dropout and no-op casts,
    reshapes, slices and expands, gives several spellings one, folds small constants, merges duplicates.

    Args:
        fold_limit: Largest folded constant in bytes.
    """

    name = "canonicalize"
    establishes = frozenset({"canonical", "functional"})

    fold_limit: int = 1 << 20

    def apply(self, program: Program, rewriter: Rewriter) -> None:
        """Run the steps in order; a program with effects on its inputs is cleaned, but not called canonical."""
        inline_regions(program, rewriter)
        remove_dead(program, rewriter)
        blocked = functionalize(program, rewriter)
        if not blocked:
            self._simplify(program, rewriter)
        remove_dead(program, rewriter)

    def _simplify(self, program: Program, rewriter: Rewriter) -> None:
        table = rule_table()
        for _ in range(4):
            sweep(table, program, rewriter)
            fold_constants(program, rewriter, limit=self.fold_limit)
            merged = merge_duplicates(program, rewriter)
            remove_dead(program, rewriter)
            if not merged:
                break
