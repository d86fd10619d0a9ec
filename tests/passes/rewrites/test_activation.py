"""GELU and SiLU as transformers' `activations.py` and older models spell them."""

from __future__ import annotations

import math

import pytest
import torch

ROOT = math.sqrt(2 / math.pi)
X = 3 * torch.randn(2, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

ERF = {
    "python": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "halved_gate": lambda x: x * (0.5 * (1 + torch.erf(x * math.sqrt(0.5)))),
    "halved_product": lambda x: (x * (torch.erf(x / math.sqrt(2)) + 1)) / 2,
    "ones_like": lambda x: x * 0.5 * (torch.erf(x / math.sqrt(2)) + torch.ones_like(x)),
}
TANH = {
    "new": lambda x: 0.5 * x * (1.0 + torch.tanh(ROOT * (x + 0.044715 * torch.pow(x, 3.0)))),
    "fast": lambda x: 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x))),
    "bloom": lambda x: x * 0.5 * (1.0 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))),
    "cube": lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * x * x * x))),
}
SILU = {
    "sigmoid": lambda x: x * torch.sigmoid(x),
    "exp": lambda x: x / (1 + torch.exp(-x)),
}
CASES = [(name, spell, "gelu") for name, spell in (ERF | TANH).items()] + [(n, s, "silu") for n, s in SILU.items()]


@pytest.mark.parametrize(("name", "spell", "op"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_spellings(trace, name, spell, op):
    from graphwright.passes.pipeline import Pipeline
    from graphwright.passes.validate import Validate

    program = trace(spell, X, dynamic=(0,))
    result = Pipeline("canonicalize,fuse-activation").run(program, [Validate()])
    calls = [n for n in result.program.nodes if n.op == "call_function" and torch.is_tensor(n.meta["val"])]
    assert [str(node.target) for node in calls] == [f"aten.{op}.default"]
    assert (calls[0].kwargs.get("approximate") == "tanh") == (name in TANH)
    # constants that models cut short (0.79788456) differ by 1e-9
    torch.testing.assert_close(result.program.run(X), spell(X), rtol=1e-8, atol=1e-8)


NEAR = {
    "quick": (lambda x: x * torch.sigmoid(1.702 * x), "is %x before"),
    "short_root": (lambda x: x * 0.5 * (1.0 + torch.erf(x / 1.414)), "within 1e-06"),
    "no_half": (lambda x: x * (1 + torch.erf(x / math.sqrt(2))), ""),
    "other_gate": (lambda x: x * 0.5 * (1 + torch.erf((x + 1) / math.sqrt(2))), "is %x before"),
    "other_cube": (lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.0447 * x**3))), "within 1e-06"),
}


@pytest.mark.parametrize("name", NEAR)
def test_near_misses_stay(trace, rewrite, name):
    spell, reason = NEAR[name]
    done = rewrite(trace(spell, X), "fuse-activation")
    assert not done.fired
    assert reason in done.reasons
