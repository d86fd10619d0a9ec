"""Facts about programs and runs, as the commands print them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from graphwright.ir.node import op_name

if TYPE_CHECKING:
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


def op_counts(program: Program) -> Counter[str]:
    """How often each op is called."""
    return Counter(op_name(node) for node in program.graph.nodes if node.op == "call_function")
