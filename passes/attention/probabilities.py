"""From the softmax forwards: what happens to the probabilities until they meet the values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.infer import same_shape
from graphwright.ir.node import bound, is_call, op_name, shape_of, value_of, where
from graphwright.passes.attention.region import NotAttention
from graphwright.passes.patterns.constants import as_number

aten = torch.ops.aten
PRODUCTS = (aten.matmul, aten.bmm)


def only_user(node: Node, part: str) -> Node:
    """The single user of an inner value.

    Raises:
        NotAttention: It has several users, or none.
    """
    users = list(node.users)
    if len(users) == 1:
        return users[0]
    if not users:
        raise NotAttention("its result is not used", node, part)
    outside = next((user for user in users if user.op == "output"), users[-1])
    what = "the program returns it" if outside.op == "output" else f"{where(outside)} uses it too"
    raise NotAttention(f"%{node.name} has {len(users)} users: {what}", node, part)


@dataclass(frozen=True)
class Weighted:
    """What happens to the probabilities.

    Args:
        output: Their product with the values.
        value: The values.
        dropout: Probability of dropout.
        between: The nodes between the softmax and the product.
        cut: The node that cuts off the last probability of each row, if there is one (that of an attention sink).
        zeroed: Masks under which the probabilities are set to 0.
    """

    output: Node
    value: Node
    dropout: float
    between: list[Node]
    cut: Node | None
    zeroed: list[Any]


def follow(softmax: Node, state: Mapping[str, Any]) -> Weighted:
    """Follow the probabilities to their product with the values.

    Raises:
        NotAttention: Something else happens to the probabilities.
    """
    between: list[Node] = []
    zeroed: list[Any] = []
    dropout, current, cut = 0.0, softmax, None
    while True:
        guard = _nan_guard(current)
        if guard is not None:
            between += guard
            current = guard[-1]
        user = only_user(current, "values")
        if is_call(user, *PRODUCTS) and user.args[0] is current:
            return Weighted(user, _node(user.args[1]), dropout, between, cut, zeroed)
        if cut is None and _cuts_last(user):
            cut = user
        elif is_call(user, aten.masked_fill) and user.args[0] is current and as_number(user.args[2], state) == 0:
            zeroed.append(user.args[1])
        else:
            drops = _step(user, current)
            if drops and dropout:
                raise NotAttention("dropout is applied to the probabilities twice", user, "values")
            dropout = dropout or drops
        between.append(user)
        current = user


def _nan_guard(current: Node) -> list[Node] | None:
    """The nodes of `where(isnan(p), 0, p)`: zeros for a query without any key, as ATen's operator gives them."""
    chosen = [user for user in current.users if is_call(user, aten.where) and user.args[2] is current]
    asked = [user for user in current.users if is_call(user, aten.isnan)]
    if len(current.users) != 2 or len(chosen) != 1 or len(asked) != 1 or len(asked[0].users) != 1:
        return None
    condition, replacement, _ = chosen[0].args
    zero = as_number(replacement, {}) if not isinstance(replacement, Node) else _zeros(replacement)
    return [asked[0], chosen[0]] if condition is asked[0] and zero == 0 else None


def _zeros(node: Node) -> float | None:
    """The number that a node made by `full` or `zeros` holds throughout."""
    if is_call(node, aten.zeros):
        return 0.0
    if is_call(node, aten.full, aten.scalar_tensor):
        value = bound(node).get("fill_value", bound(node).get("s"))
        return float(value) if isinstance(value, (int, float)) else None
    return None


def _node(value: Any) -> Node:
    assert isinstance(value, Node)
    return value


def _cuts_last(node: Node) -> bool:
    """Whether a node is `x[..., :-1]`."""
    if not is_call(node, aten.slice.Tensor):
        return False
    arguments = bound(node)
    last = arguments["dim"] in (-1, len(shape_of(node) or ()) - 1)
    return last and arguments["start"] in (None, 0) and arguments["end"] == -1 and arguments["step"] == 1


def _step(user: Node, current: Node) -> float:
    """Check that an op between softmax and values keeps the probabilities; returns the dropout it applies."""
    if is_call(user, aten.dropout):
        arguments = bound(user)
        return float(arguments["p"]) if arguments["train"] else 0.0
    if is_call(user, aten.to.dtype) and value_of(user).dtype.is_floating_point:
        return 0.0
    if is_call(user, aten.nan_to_num) and bound(user)["nan"] in (None, 0):
        return 0.0  # a query without any key gives zeros, as ATen's operator gives them
    if is_call(user, aten.reshape) and keeps_last_dims(user, current):
        return 0.0
    if user.op == "output":
        raise NotAttention("the probabilities are a result of the program, not multiplied with values", user, "values")
    raise NotAttention(f"{op_name(user)} is applied to the probabilities before they meet the values", user, "values")


def keeps_last_dims(reshape: Node, source: Node) -> bool:
    """Whether a reshape touches only the leading dims, not queries and keys."""
    old, new = shape_of(source) or (), shape_of(reshape) or ()
    return len(old) >= 2 and len(new) >= 2 and same_shape(old[-2:], new[-2:])
