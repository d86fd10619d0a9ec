"""What LiteRT's kernels refuse, in their own words, looked up before a file is written."""

from __future__ import annotations

from collections.abc import Iterator

from torch.fx import Node

from graphwright.ir.node import module_path, op_name, source_line, tensor_type
from graphwright.ir.program import Program
from graphwright.lowering.support import Support, SupportReport, Unsupported
from graphwright.lowering.tflite.graph import Graph, Operator

TYPES = frozenset(["float32", "int64", "int32", "int16", "int8", "uint8", "bool"])
"""Element types that kernels compute in."""

RANKS = {
    "PAD": (5, "op_context.dims <= reference_ops::PadKernelMaxDimensionCount()"),
    "PADV2": (5, "op_context.dims <= reference_ops::PadKernelMaxDimensionCount()"),
    "BATCH_MATMUL": (5, "NumDimensions(lhs_data) <= 5"),
} | {
    code: (6, f"failed to delegate {code}: XNN_MAX_TENSOR_DIMS is 6")
    for code in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "CONCATENATION")
}
"""Operator -> the largest rank, and what the runtime says of a larger one."""

LARGEST = 8, "the runtime's shapes have at most 8 dimensions"


def typed(node: Node) -> Support:
    """Whether kernels compute in the element types of a call and what it reads."""
    computed = [source for source in node.all_input_nodes if source.op != "get_attr"]
    for value in (node, *computed):
        found = tensor_type(value)
        name = "" if found is None else str(found.dtype).removeprefix("torch.")
        if name and name not in TYPES:
            remedy = "convert the model with model.float()" if "float" in name else "compute with real numbers"
            return Support.no(f"Type '{name.upper()}' is not supported by LiteRT's kernels", remedy=remedy)
    return Support.yes()


def refused(graph: Graph, program: Program, target: str) -> SupportReport:
    """Report the calls of a program that became operators which the runtime refuses.

    Args:
        graph: What the program became.
        program: The program.
        target: Text form of the target.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    reasons = {operator.origin: reason for operator in graph.operators for reason in _reasons(operator)}
    found = tuple(_unsupported(nodes[name], reason) for name, reason in reasons.items() if name in nodes)
    calls = sum(node.op == "call_function" for node in program.graph.nodes)
    return SupportReport(target, calls, found)


def _reasons(operator: Operator) -> Iterator[str]:
    limit, says = RANKS.get(operator.code, LARGEST)
    ranks = [value.rank for value in (*operator.inputs, *operator.outputs) if value is not None]
    if max(ranks, default=0) > limit:
        yield f"{operator.code} of rank {max(ranks)}: {says}"


def _unsupported(node: Node, reason: str) -> Unsupported:
    remedy = "merge dimensions with a reshape first"
    return Unsupported(node.name, op_name(node), module_path(node), source_line(node), reason, remedy)
