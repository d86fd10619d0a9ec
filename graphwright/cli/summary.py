"""Facts about programs and runs, as the commands print them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graphwright.ir.diff import GraphDiff
    from graphwright.ir.program import Dim, Program
    from graphwright.lowering.accuracy import Accuracy
    from graphwright.lowering.compare import Comparison
    from graphwright.lowering.support import SupportReport


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


def support_facts(report: SupportReport) -> dict[str, Any]:
    """What a target supports: `supported`, and each call that it does not."""
    return {"supported": report.ok, "calls": report.total, "unsupported": [asdict(item) for item in report.unsupported]}


def comparison_facts(comparison: Comparison) -> dict[str, Any]:
    """A comparison: `ok`, the largest difference, and each output in each case."""
    rows = [asdict(row) | {"ok": row.ok} for row in comparison.rows]
    return {"ok": comparison.ok, "largest_difference": comparison.largest_difference, "rows": rows}


def comparisons_facts(comparisons: Mapping[str, Comparison | Accuracy]) -> dict[str, Any]:
    """The comparisons of all parts of a model together; each row says its part."""
    reports = {name: found.facts() for name, found in comparisons.items() if not hasattr(found, "rows")}
    if reports:
        return {"ok": all(found.ok for found in comparisons.values()), "accuracy": reports}
    parts = {name: comparison_facts(found) for name, found in comparisons.items()}  # type: ignore[arg-type]
    return {
        "ok": all(part["ok"] for part in parts.values()),
        "largest_difference": max((part["largest_difference"] for part in parts.values()), default=0.0),
        "rows": [row | {"part": name} for name, part in parts.items() for row in part["rows"]],
    }
