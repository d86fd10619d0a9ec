"""Loops over the items in use, which run for all items in a captured program."""

from __future__ import annotations

import pytest
import torch

from graphwright.frontends.capture import capture
from graphwright.ir.errors import CaptureError
from graphwright.passes.pipeline import Pipeline

COUNT, WIDTH = 4, 3


class Experts(torch.nn.Module):
    """Tokens go to the expert of their largest value; only experts with tokens run."""

    def __init__(self, *, shift: bool = False, spare: int = 0) -> None:
        super().__init__()
        self.spare = spare
        self.router = torch.nn.Linear(WIDTH, COUNT)
        self.weight = torch.nn.Parameter(torch.randn(COUNT, WIDTH, WIDTH))
        self.shift = shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = torch.nn.functional.one_hot(self.router(x).argmax(-1), COUNT + self.spare).T
        result = torch.zeros_like(x)
        for expert in torch.greater(chosen.sum(-1), 0).nonzero():
            number = int(expert.item())
            with torch.no_grad():
                (tokens,) = torch.where(chosen[number])
            if tokens.numel() == 0:
                continue
            result.index_add_(0, tokens, x[tokens] @ self.weight[number])
            result = result + 1 if self.shift else result
        return result


@pytest.mark.parametrize("spare", [0, 1])
def test_a_loop_over_experts_is_captured_for_any_tokens(spare):
    torch.manual_seed(0)
    model = Experts(spare=spare).double().eval()
    program = capture(model, (torch.randn(6, WIDTH, dtype=torch.float64),), dynamic={"x": {0: "tokens"}})
    assert [dim.name for dim in program.dims] == ["tokens"]
    optimised = Pipeline("default").run(program).program
    for tokens in (1, 2, 9, 40):
        x = torch.randn(tokens, WIDTH, dtype=torch.float64)
        torch.testing.assert_close(program.run(x), model(x), rtol=0, atol=1e-12)  # float64, sums of 3 products
        torch.testing.assert_close(optimised.run(x), model(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("tokens", [1, 40])
def test_a_loop_that_counts_its_rounds_is_not(tokens):
    torch.manual_seed(0)
    model = Experts(shift=True).double().eval()
    x = torch.randn(tokens, WIDTH, dtype=torch.float64)
    with pytest.raises(CaptureError):
        capture(model, (x,), dynamic=None if tokens == 1 else {"x": {0: "tokens"}})


def test_an_example_that_uses_all_items_is_not_enough():
    torch.manual_seed(0)
    model = Experts().double().eval()
    x = torch.randn(40, WIDTH, dtype=torch.float64)
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    with torch.no_grad():
        model.router.weight.copy_(corners)
        model.router.bias.zero_()
    assert len(model.router(x).argmax(-1).unique()) == COUNT
    with pytest.raises(CaptureError, match="no example leaves out an item"):
        capture(model, (x,), dynamic=None)
