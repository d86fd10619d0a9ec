"""Repeated key and value heads: recognised only where they are copied head by head."""

from __future__ import annotations

import pytest
import torch

from graphwright.ir.node import is_call
from graphwright.passes.attention.heads import unrepeated
from graphwright.passes.pipeline import Pipeline

aten = torch.ops.aten
F64 = torch.float64


def kv(batch=2, heads=2, length=5, width=8):
    return torch.randn(batch, heads, length, width, dtype=F64, generator=torch.Generator().manual_seed(0))


def expand(t, times, at=2):
    b, h, s, d = t.shape
    shape = [b, h, s, d]
    shape.insert(at, times)
    return t.unsqueeze(at).expand(shape).reshape(b, h * times, s, d)


REPEATED = {
    "expand": (lambda t: expand(t, 3), 3),
    "expand with -1": (lambda t: t[:, :, None].expand(-1, -1, 4, -1, -1).reshape(t.shape[0], 8, *t.shape[2:]), 4),
    "flatten": (lambda t: t[:, :, None].expand(-1, -1, 4, -1, -1).flatten(1, 2), 4),
    "repeat_interleave": (lambda t: t.repeat_interleave(3, 1), 3),
    "repeat_interleave, negative dim": (lambda t: t.repeat_interleave(2, -3), 2),
    "copied": (lambda t: expand(t, 2).contiguous().clone(), 2),
}
NOT_REPEATED = {
    "as it is": lambda t: t * 2,
    "tiled": lambda t: expand(t, 2, at=1),
    "repeat": lambda t: t.repeat(1, 2, 1, 1),
    "interleaved keys": lambda t: t.repeat_interleave(2, 2),
    "interleaved batch": lambda t: t.repeat_interleave(2, 0),
    "interleaved width": lambda t: t.repeat_interleave(2, -1),
    "merged with the keys": lambda t: t[:, :, None].expand(-1, -1, 2, -1, -1).reshape(2, 2, 10, 8),
    "stretched keys": lambda t: t[:, :, :1, None].expand(2, 2, 1, 5, 8).reshape(2, 2, 5, 8),
    "stretched width": lambda t: t[:, :, None, :, :1].expand(2, 2, 2, 5, 8).reshape(2, 4, 5, 8),
    "stretched batch": lambda t: t[:1, :, None].expand(2, 2, 2, 5, 8).reshape(2, 4, 5, 8),
    "different numbers": lambda t: t.repeat_interleave(torch.tensor([1, 3]), 1, output_size=4),
    "five dims": lambda t: t[:, :, None].expand(-1, -1, 2, -1, -1),
}


@pytest.mark.parametrize("name", REPEATED)
@pytest.mark.parametrize("dynamic", [(), (0, 2)])
def test_copies_head_by_head_are_seen_through(trace, name, dynamic):
    function, times = REPEATED[name]
    made = Pipeline("canonicalize").run(trace(lambda t: function(t) + 0.5, kv(), dynamic=dynamic)).program
    repeated = made.results[0].args[0]
    source, found = unrepeated(repeated)
    assert (source.op, found) == ("placeholder", times)


@pytest.mark.parametrize("name", NOT_REPEATED)
def test_other_copies_are_not(trace, name):
    function = NOT_REPEATED[name]
    made = Pipeline("canonicalize").run(trace(lambda t: function(t) + 0.5, kv())).program
    repeated = made.results[0].args[0]
    assert unrepeated(repeated) == (repeated, 1)


def attend(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) * 0.3, -1) @ v


GROUPS = {
    "both": (lambda k, v: (expand(k, 2), expand(v, 2)), True),
    "in two spellings": (lambda k, v: (expand(k, 2), v.repeat_interleave(2, 1)), True),
    "keys by head, values tiled": (lambda k, v: (expand(k, 2), v.repeat(1, 2, 1, 1)), False),
    "different times": (lambda k, v: (expand(k, 2), expand(v[:, :1], 4)), False),
    "values have all heads": (lambda k, v: (expand(k, 2), torch.cat([v, v * 2], 1)), False),
    "cached, then repeated": (lambda k, v: (expand(torch.cat([k, k], 2), 2), expand(torch.cat([v, v], 2), 2)), True),
    "one head": (lambda k, v: (k[:, :1], v[:, :1]), True),
    "one head of keys": (lambda k, v: (k[:, :1], expand(v, 2)), False),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("dynamic", [(), (0,)])
def test_grouped_attention_is_exact(trace, name, dynamic):
    function, grouped = GROUPS[name]
    q = torch.randn(2, 4, 3, 8, dtype=F64, generator=torch.Generator().manual_seed(1))
    made = trace(lambda q, k, v: attend(q, *function(k, v)), q, kv(), kv() + 1, dynamic=dynamic)
    result = Pipeline("default").run(made).program
    (node,) = [n for n in result.nodes if is_call(n, aten.scaled_dot_product_attention)]
    assert bool(node.kwargs.get("enable_gqa")) is grouped
    assert torch.allclose(result.run(q, kv(), kv() + 1), made.run(q, kv(), kv() + 1), atol=1e-12)
