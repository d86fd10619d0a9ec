"""Where new nodes come from: torch's own `from_node`, `nn_module_stack` and `stack_trace`, from the old nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import Node
from torch.fx.traceback import NodeSource, NodeSourceAction


def provenance(nodes: Sequence[Node], anchor: Node | None, pass_name: str) -> dict[str, Any]:
    """Provenance of a node made from `nodes`, in torch's own form.

    The module stack is the part that all nodes share, so a fusion across two modules belongs to their parent.
    """
    if anchor is None:
        return {}
    meta: dict[str, Any] = {
        "from_node": [NodeSource(node, f"graphwright:{pass_name}", NodeSourceAction.REPLACE) for node in nodes[-1:]]
    }
    stack = shared_stack(nodes)
    if stack:
        meta["nn_module_stack"] = stack
    if anchor.meta.get("stack_trace"):
        meta["stack_trace"] = anchor.meta["stack_trace"]
    return meta


def shared_stack(nodes: Sequence[Node]) -> dict[str, Any]:
    """The common prefix of the module stacks of `nodes`."""
    stacks = [node.meta["nn_module_stack"] for node in nodes if node.meta.get("nn_module_stack")]
    if not stacks:
        return {}
    shared: dict[str, Any] = {}
    for entries in zip(*(stack.items() for stack in stacks), strict=False):
        if any(entry != entries[0] for entry in entries):
            break
        shared[entries[0][0]] = entries[0][1]
    return shared
