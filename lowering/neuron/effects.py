"""Inputs that a program writes to: a module has no effects, so the inputs as they are afterwards are its results.

Canonicalization leaves such writes alone, as the caller sees them. A captured cache of fixed size is written to and
returned: what is returned is then what was written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.errors import UnsupportedError
from graphwright.ir.infer import same_shape
from graphwright.ir.invariants import is_mutating, written_root
from graphwright.ir.node import shape_of, where
from graphwright.ir.overload import choose_overload
from graphwright.ir.program import Program


def without_effects(program: Program) -> Program:
    """A copy in which writes to inputs make new values, which everything after them reads.

    Raises:
        UnsupportedError: An input is written to in another way than by an op with a functional form.
    """
    made = program.clone()
    for node in [n for n in made.graph.nodes if n.op == "call_function" and is_mutating(n)]:
        root = written_root(node)
        if isinstance(root, Node) and root.op == "placeholder":
            _make_functional(node, root)
    made.touch()
    return made


def _make_functional(node: Node, root: Node) -> None:
    name = node.target._schema.name.partition("::")[2]  # type: ignore[union-attr]
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    source: Any = node.args[0]
    if packet is None or not name.endswith("_") or not same_shape(shape_of(source) or (), shape_of(root) or ()):
        raise UnsupportedError(f"an input is written to by {name}, in part or in a way of its own", at=where(node))
    overload = choose_overload(packet, node.args, node.kwargs)
    with node.graph.inserting_after(node):
        new = node.graph.call_function(overload, node.args, node.kwargs)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    order = {other: place for place, other in enumerate(node.graph.nodes)}
    for old in {source, root}:
        for user in [user for user in old.users if order[user] > order[new]]:
            user.replace_input_with(old, new)
    node.graph.erase_node(node)
