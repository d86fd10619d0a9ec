"""Boolean masks that several attentions share are made additive once; results stay the same to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from graphwright.ir.node import value_of
from graphwright.lowering.eager.masks import additive_mask, share_masks
from graphwright.lowering.registry import target
from graphwright.passes.pipeline import Pipeline


def model(q, mask):
    first = F.scaled_dot_product_attention(q, q, q, attn_mask=mask)
    second = F.scaled_dot_product_attention(first, q, q, attn_mask=mask)
    return F.scaled_dot_product_attention(second, first, q, attn_mask=mask.logical_not()) + second


def masks():
    """Right, left and scattered padding, a causal mask, and rows that keep nothing."""
    keep = torch.ones(4, 1, 1, 6, dtype=torch.bool)
    keep[0, ..., -2:] = keep[1, ..., :2] = keep[2, ..., ::2] = keep[3] = False
    return keep, keep & torch.ones(6, 6, dtype=torch.bool).tril(), torch.ones_like(keep)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_results(dtype, trace):
    q = torch.randn(4, 2, 6, 8, dtype=dtype)
    for mask in masks():
        program = Pipeline("canonicalize").run(trace(model, q, mask)).program
        copy = share_masks(program)
        made = [node for node in copy.graph.nodes if node.target is additive_mask]
        assert len(made) == 1 and len(made[0].users) == 2 and value_of(made[0]).dtype == dtype
        with torch.no_grad():
            (have,) = target("eager").lower(program).run(q=q, mask=mask).values()
            torch.testing.assert_close(have, model(q, mask), rtol=0, atol=0, equal_nan=True)


def test_one_attention_is_left_alone(trace):
    def single(q, mask):
        return F.scaled_dot_product_attention(q, q, q, attn_mask=mask)

    program = trace(single, torch.randn(4, 2, 6, 8), masks()[0])
    assert share_masks(program) is program
