"""Facts about programs and runs, as the commands print them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphwright.ir.diff import GraphDiff
    from graphwright.ir.program import Dim, Program


def program_facts(program: Program) -> dict[str, Any]:
    """Name, size, inputs, dynamic dimensions and invariants of a program."""
    return {
        "name": program.name,
        "nodes": len(program.graph.nodes),
        "weights_bytes": program.state_bytes(),
        "inputs": [node.name for node in program.placeholders],
        "dims": [dim_text(dim) for dim in program.dims],
        "invariants": sorted(program.invariants),
    }


def dim_text(dim: Dim) -> str:
    """`batch: 1 to 512`, `sequence: 2 or more`."""
    return f"{dim.name}: {dim.min} to {dim.max}" if dim.max is not None else f"{dim.name}: {dim.min} or more"


def diff_facts(diff: GraphDiff) -> dict[str, Any]:
    """A diff as JSON-ready data: sizes, ops, the hunks with their sites, and the text."""
    return {
        "nodes_before": diff.counts[0],
        "nodes_after": diff.counts[1],
        "ops": diff.ops,
        "hunks": [
            {"pass": hunk.first.pass_name, "rule": hunk.first.rule, "times": len(hunk.rewrites), "sites": hunk.sites}
            for hunk in diff.hunks
        ],
        "text": str(diff),
    }
