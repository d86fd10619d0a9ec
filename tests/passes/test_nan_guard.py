"""Probabilities whose NaNs, those of queries without any key, are replaced by zeros: what ATen's operator gives."""

import pytest
import torch

import graphwright as gw


def where_isnan(weights):
    return torch.where(torch.isnan(weights), 0.0, weights)


def to_num(weights):
    return torch.nan_to_num(weights)


class Attention(torch.nn.Module):
    def __init__(self, guard):
        super().__init__()
        self.guard = guard

    def forward(self, q, k, v, mask):
        scores = (q @ k.transpose(-1, -2) / 4).masked_fill(~mask[:, None], float("-inf"))
        return self.guard(torch.softmax(scores, -1)) @ v


def fused(model, *inputs):
    return gw.Pipeline("default").run(gw.capture(model, inputs, dynamic=None)).program


def is_attention(program):
    return any("scaled_dot_product_attention" in str(node.target) for node in program.nodes)


@pytest.mark.parametrize("guard", [where_isnan, to_num])
def test_guarded_probabilities_are_attention(guard):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 16, dtype=torch.float64) * 3 for _ in range(3))
    mask = torch.rand(2, 5, 5) > 0.4
    mask[0, 2] = False  # a query without any key
    model = Attention(guard)
    program = fused(model, q, k, v, mask)
    assert is_attention(program)
    torch.testing.assert_close(program.run(q, k, v, mask), model(q, k, v, mask), rtol=1e-12, atol=1e-12)


def test_values_of_a_width_of_their_own_are_a_miss():
    """The width of the values is not known to be that of the queries: said, not raised."""

    class Plain(torch.nn.Module):
        def forward(self, q, k, v):
            return torch.softmax(q @ k.transpose(-1, -2) / 4, -1) @ v

    program = gw.capture(Plain(), tuple(torch.randn(2, 3, 5, 16) for _ in range(3)))
    assert "another type" in str(gw.explain(program, "canonicalize,fuse-attention"))


def test_another_replacement_is_not():
    q, k, v = (torch.randn(2, 3, 5, 16, dtype=torch.float64) for _ in range(3))
    mask = torch.ones(2, 5, 5, dtype=torch.bool)
    assert not is_attention(
        fused(Attention(lambda weights: torch.where(torch.isnan(weights), 1.0, weights)), q, k, v, mask)
    )
