"""The `canonicalize` pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from torch.fx import Node

from graphwright.ir.invariants import written_root
from graphwright.ir.program import Program
from graphwright.ir.rewriter import Rewriter
from graphwright.ir.views import views_of
from graphwright.passes.base import Pass
from graphwright.passes.canonicalize import casts, einsum, masks, noise, relayout, shapes, sizes
from graphwright.passes.canonicalize.cleanup import merge_duplicates, remove_dead
from graphwright.passes.canonicalize.constants import fold_constants
from graphwright.passes.canonicalize.equal_constants import merge_equal_constants
from graphwright.passes.canonicalize.functionalize import functionalize
from graphwright.passes.canonicalize.regions import inline_regions
from graphwright.passes.local import RuleTable, merge_tables, sweep


@cache
def rule_table() -> RuleTable:
    """All local rules of canonicalization."""
    return merge_tables(
        (einsum.TABLE, noise.TABLE, casts.TABLE, shapes.TABLE, sizes.TABLE, relayout.TABLE, masks.TABLE)
    )


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
        """Run the steps in order."""
        own = frozenset(program.state)
        inline_regions(program, rewriter)
        remove_dead(program, rewriter)
        functionalize(program, rewriter)
        pinned = _written(program)
        for _ in range(4):
            sweep(rule_table(), program, rewriter, skip=pinned)
            fold_constants(program, rewriter, limit=self.fold_limit, skip=pinned)
            merge_equal_constants(program, rewriter, keep=own)
            merged = merge_duplicates(program, rewriter, skip=pinned)
            remove_dead(program, rewriter)
            if not merged:
                break


def _written(program: Program) -> set[Node]:
    """Inputs and state that the program writes to, and all views of them: order matters for those who read them."""
    written = {(root.op, root.target) for node in program.graph.nodes if (root := written_root(node)) is not None}
    roots = [node for node in program.graph.nodes if (node.op, node.target) in written]
    pinned: set[Node] = set()
    for root in roots:
        for view in views_of(root):
            pinned |= {view, *view.users}
    return pinned
