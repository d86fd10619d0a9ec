"""What an attention region is made of: the data that the analysis hands to the rewrite."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node

from graphwright.ir.errors import GraphwrightError
from graphwright.ir.node import is_call

PATTERN = "softmax(scale * (q @ k^T) + mask, dim=-1) @ v"
_PARTS = {"scores": "q @ k^T", "scale": "scale", "mask": "mask", "softmax": "softmax", "dim": "dim=-1", "values": "@ v"}

# A finite fill of this size or below takes no part in the softmax: exp(-1e4 - max) is 0 in every float type.
MASKED = -1e4


def span(part: str) -> tuple[int, int]:
    """Where a part of the computation stands in `PATTERN`."""
    start = PATTERN.index(_PARTS[part])
    return start, start + len(_PARTS[part])


class NotAttention(GraphwrightError):
    """Why a region is not (expressible) attention; turned into a Miss.

    Args:
        reason: One sentence.
        culprit: The node to blame.
        part: Which part of `PATTERN` it concerns.
        depth: How many nodes were understood before.
    """

    def __init__(self, reason: str, culprit: Node, part: str = "scores", depth: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.culprit, self.part, self.depth = reason, culprit, part, depth


@dataclass(frozen=True)
class Step:
    """One op between the score product and the softmax.

    Args:
        kind: `scale` (times a number), `scale_tensor` (times a tensor), `add` (plus sign * tensor),
            `fill` (a number where a mask holds), `tanh` (soft-capping), `sinks` (a further column of scores that the
            softmax sees and the values do not), `reshape`, or `same` (keeps the value: casts, shifts).
        node: The op's node.
        number: The factor, the sign, or the fill value.
        tensor: The other tensor: factor, addend or mask.
        inverted: For `fill`: the mask says where scores are kept.
        extra: Further nodes that serve this step alone.
    """

    kind: str
    node: Node
    number: float = 1.0
    tensor: Any = None
    inverted: bool = False
    extra: tuple[Node, ...] = ()


@dataclass
class Scores:
    """The region from the score product to the softmax; `steps` run from the softmax inwards."""

    query: Node
    key_transposed: Node
    product: Node
    steps: list[Step] = field(default_factory=list)


@dataclass
class Attention:
    """One recognised attention: `softmax(scores) @ value`.

    Args:
        softmax: The softmax.
        scores: What leads to it.
        value: The values.
        output: The product of probabilities and values.
        dropout: Probability of dropping a probability.
        after: Nodes between the softmax and the product.
        zeroed: Masked probabilities are set to 0, so a fully masked row gives 0.
    """

    softmax: Node
    scores: Scores
    value: Node
    output: Node
    dropout: float
    after: list[Node]
    zeroed: bool = False

    def nodes(self) -> list[Node]:
        """All nodes of the region, unordered."""
        steps = [node for step in self.scores.steps for node in (step.node, *step.extra)]
        operands = [node for node in (self.scores.query, self.scores.key_transposed) if is_private(node)]
        return [*operands, self.scores.product, *steps, self.softmax, *self.after, self.output]


def is_private(node: Node) -> bool:
    """Whether an operand is a transpose or cast that serves this product alone."""
    return len(node.users) == 1 and is_call(node, torch.ops.aten.transpose.int, torch.ops.aten.to.dtype)
