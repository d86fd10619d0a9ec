"""The verifier: what every program must keep, and what each invariant adds."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.fx import Node

from graphwright.ir.errors import VerifyError
from graphwright.ir.invariants import CHECKS
from graphwright.ir.node import OpOverload, value_of, where
from graphwright.ir.program import Program

Violation = tuple[Node | None, str]


def verify(program: Program) -> None:
    """Check a program; about 1 ms for 1,000 nodes.

    Raises:
        VerifyError: Names the first node that breaks a rule, the rule, and how many others do.
    """
    violations = list(_violations(program))
    if violations:
        node, reason = violations[0]
        others = len(violations) - 1
        raise VerifyError(
            f"the program '{program.name}' is not valid" + (f" ({others} more violations)" if others else ""),
            at=where(node) if node is not None else None,
            why=reason,
        )


def _violations(program: Program) -> Iterator[Violation]:
    for rule in (_order, _state, _values, _interface):
        yield from rule(program)
    for invariant in sorted(program.invariants):
        check = CHECKS.get(invariant)
        if check is not None:
            for node in program.graph.nodes:
                reason = check(node)
                if reason:
                    yield node, f"'{invariant}' does not hold: {reason}"


def _order(program: Program) -> Iterator[Violation]:
    """Values are defined before they are used, inputs come first, and there is one output at the end."""
    seen: set[Node] = set()
    computed, last = False, program.output_node
    for node in program.graph.nodes:
        for used in node.all_input_nodes:
            if used not in seen:
                yield node, f"uses %{used.name}, which is not defined before it"
        if node.op == "placeholder" and computed:
            yield node, "this input comes after a call"
        if node.op == "output" and node is not last:
            yield node, "this output is not the last node"
        computed = computed or node.op == "call_function"
        seen.add(node)
    if last.op != "output":
        yield last, "the last node is not the output"


def _state(program: Program) -> Iterator[Violation]:
    for node in program.graph.nodes:
        if node.op == "get_attr" and str(node.target) not in program.state:
            yield node, f"reads '{node.target}', which is not in the state"


def _values(program: Program) -> Iterator[Violation]:
    """Every value has a recorded type; every call is an op or a Python function."""
    for node in program.graph.nodes:
        if node.op not in ("placeholder", "get_attr", "call_function", "output"):
            yield node, f"node kind '{node.op}' does not occur in programs"
        if node.op == "call_function":
            if not isinstance(node.target, (OpOverload, torch._ops.HigherOrderOperator)) and not callable(node.target):
                yield node, f"calls {node.target!r}, which is neither an op nor a function"
            elif value_of(node) is None and node.users:
                yield node, "has users but no recorded type"


def _interface(program: Program) -> Iterator[Violation]:
    """As many inputs and results as the signature says."""
    inputs, results = len(program.placeholders), len(program.results)
    if inputs != program.signature.in_spec.num_leaves:
        yield None, f"{inputs} inputs, the signature has {program.signature.in_spec.num_leaves}"
    if results != program.signature.out_spec.num_leaves:
        yield program.output_node, f"{results} results, the signature has {program.signature.out_spec.num_leaves}"
