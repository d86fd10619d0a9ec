"""Small captured programs for the tests of the IR."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphwright.ir.program import Program
from graphwright.ir.signature import Example

LAYERS = 12


class Block(nn.Module):
    """Attention written out, and a feed-forward layer."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.feed = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        scores = torch.matmul(q, k.transpose(-1, -2)) * 0.5
        mixed = torch.matmul(torch.softmax(scores, -1), v)
        return x + nn.functional.gelu(self.feed(mixed.transpose(1, 2).flatten(2)))

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Stack(nn.Module):
    """Several blocks and an output layer with a tied weight."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layers = nn.ModuleList(Block() for _ in range(layers))
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("shift", torch.arange(16.0).view(2, 8).t()[:, 1])

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.embed(ids) + self.shift
        for layer in self.layers:
            hidden = layer(hidden)
        return {"hidden": hidden, "logits": self.head(hidden)}


def export_stack(layers: int) -> Program:
    """The stack with named dynamic dimensions, its weights scaled up so that errors show."""
    torch.manual_seed(0)
    model = Stack(layers).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    ids = torch.arange(10).view(2, 5)
    shapes = {"ids": {0: torch.export.Dim("b", min=1, max=64), 1: torch.export.Dim("s", min=1, max=32)}}
    exported = torch.export.export(model, (), {"ids": ids}, dynamic_shapes=shapes)
    value = next(node.meta["val"] for node in exported.graph.nodes if node.name == "ids")
    names = {str(size.node.expr): name for size, name in zip(value.shape, ("batch", "sequence"), strict=True)}
    return Program.from_exported(exported, example=Example((), {"ids": ids}), names=names, name="Stack")


@pytest.fixture(scope="session")
def exported() -> Program:
    return export_stack(LAYERS)


@pytest.fixture
def program(exported: Program) -> Program:
    """A stack of 12 blocks, free to be edited."""
    return exported.clone()


@pytest.fixture(scope="session")
def exported_small() -> Program:
    return export_stack(2)
