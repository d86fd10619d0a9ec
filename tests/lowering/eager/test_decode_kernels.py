"""Fused ops of a decode step: the rewrites compute the same in float64, the kernels what their references do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphwright import Pipeline, capture
from graphwright.lowering.eager.kernels import decode_attention as attention
from graphwright.lowering.eager.kernels import gemv
from graphwright.lowering.eager.kernels.decode_pass import FuseDecodeAttention
from graphwright.lowering.eager.kernels.gemv_pass import FuseGemv

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels run on NVIDIA GPUs")
BEFORE = "canonicalize,fuse-norm,fuse-activation,fuse-rotary,fuse-attention,static-cache"


class Feedforward(nn.Module):
    """A norm, a gated feed-forward with a residual; a second one without a gate."""

    def __init__(self):
        super().__init__()
        self.norm, self.other_norm = nn.RMSNorm(24, eps=1e-5), nn.LayerNorm(24)
        self.gate, self.up, self.down = (
            nn.Linear(a, b, bias=c) for a, b, c in ((24, 40, False), (24, 40, False), (40, 24, True))
        )
        self.wide, self.narrow = nn.Linear(24, 32), nn.Linear(32, 24)

    def forward(self, x):
        normed = self.norm(x)
        x = x + self.down(nn.functional.silu(self.gate(normed)) * self.up(normed))
        return self.narrow(nn.functional.gelu(self.wide(self.other_norm(x)))) + x


class Projections(nn.Module):
    """Three linears on one norm, each used in its own way."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(24)
        self.q, self.k, self.v = nn.Linear(24, 24), nn.Linear(24, 8), nn.Linear(24, 8)

    def forward(self, x):
        x = self.norm(x)
        return self.q(x).tanh(), self.k(x) * 2, self.v(x)


class Step(nn.Module):
    """Attention of one token on static buffers, with rotation and fewer key heads."""

    def forward(self, keys, values, query, key, value, slot, cos, sin, mask):
        def turn(x):
            half = x.shape[-1] // 2
            return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

        keys, values = keys.index_copy(2, slot, turn(key)), values.index_copy(2, slot, value)
        wide = [t[:, :, None].expand(2, 2, 2, 12, 16).reshape(2, 4, 12, 16) for t in (keys, values)]
        out = nn.functional.scaled_dot_product_attention(turn(query), *wide, attn_mask=mask, scale=0.2)
        return out, keys, values


def scaled(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model.double().eval()


def step_inputs():
    torch.manual_seed(1)
    shapes = [(2, 2, 12, 16), (2, 2, 12, 16), (2, 4, 1, 16), (2, 2, 1, 16), (2, 2, 1, 16)]
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    angles = [torch.randn(2, 1, 1, 16, dtype=torch.float64) for _ in range(2)]
    mask = (torch.arange(12) <= 7).view(1, 1, 1, 12).repeat(2, 1, 1, 1)
    mask[0, ..., :2] = False
    return (*tensors, torch.tensor([7]), *angles, mask)


def counts(program, op):
    return sum(node.target is op.default for node in program.graph.nodes)


@pytest.mark.parametrize(("model", "calls", "linears"), [(Feedforward, 4, 0), (Projections, 1, 0)])
def test_linears_take_in_what_surrounds_them(model, calls, linears):
    model = scaled(model())
    x = torch.randn(2, 1, 24, dtype=torch.float64)
    program = Pipeline([*Pipeline(BEFORE).passes, FuseGemv()]).run(capture(model, (x,), dynamic=None)).program
    assert counts(program, torch.ops.graphwright.gemv) == calls
    assert counts(program, torch.ops.aten.linear) == linears
    torch.testing.assert_close(program.run(x), model(x), rtol=1e-12, atol=1e-12)


def test_a_batch_of_any_size():
    model = scaled(Feedforward())
    program = capture(model, (torch.randn(3, 1, 24, dtype=torch.float64),), dynamic={"x": {0: "batch"}})
    result = Pipeline([*Pipeline(BEFORE).passes, FuseGemv()]).run(program).program
    assert counts(result, torch.ops.graphwright.gemv) == 4
    for batch in (2, 9):
        x = torch.randn(batch, 1, 24, dtype=torch.float64)
        torch.testing.assert_close(result.run(x), model(x), rtol=1e-12, atol=1e-12)


def test_many_rows_stay_linears():
    program = capture(scaled(Projections()), (torch.randn(2, 5, 24, dtype=torch.float64),), dynamic=None)
    result = Pipeline([*Pipeline(BEFORE).passes, FuseGemv()]).run(program).program
    assert counts(result, torch.ops.graphwright.gemv) == 0


def test_attention_on_a_static_cache():
    inputs = step_inputs()
    program = capture(Step(), inputs, dynamic=None)
    result = Pipeline([*Pipeline(BEFORE).passes, FuseDecodeAttention()]).run(program, validate=False).program
    assert counts(result, torch.ops.graphwright.decode_attention) == 1
    assert counts(result, torch.ops.graphwright.rotary_embedding) == 0
    expected = Step()(*inputs)
    buffers = [tensor.clone() for tensor in inputs]
    torch.testing.assert_close(tuple(result.run(*buffers)), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(buffers[:2], list(expected[1:]), rtol=1e-12, atol=1e-12)


def test_an_attention_without_a_cache_says_why_it_stays():
    class Plain(nn.Module):
        def forward(self, q, k, v):
            return nn.functional.scaled_dot_product_attention(q, k, v)

    q, k = torch.randn(1, 2, 1, 16), torch.randn(1, 2, 5, 16)
    program = capture(Plain(), (q, k, k.clone()), dynamic=None)
    assert "no static cache" in str(next(iter(FuseDecodeAttention().misses(program))))


@needs_gpu
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("norm", gemv.NORMS)
@pytest.mark.parametrize("gated", [False, True])
def test_gemv_kernel(rows, norm, gated):
    torch.manual_seed(0)
    make = lambda *shape: torch.randn(shape, device="cuda", dtype=torch.bfloat16)  # noqa: E731
    x, weights = make(rows, 1, 768), [make(200, 768) / 28, make(200 if gated else 40, 768) / 28]
    options = {
        "norm": norm,
        "norm_weight": None if norm == "none" else make(768),
        "norm_bias": make(768) if norm == "layer" else None,
        "eps": 1e-5,
        "activation": "silu" if gated else "none",
        "gated": gated,
        "residual": make(rows, 1, 200 if gated else 240),
    }
    actual = torch.ops.graphwright.gemv(x, weights, [None, None], **options)
    wide = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    expected = gemv.reference(x.double(), [w.double() for w in weights], [None, None], **wide)
    assert (actual - expected).norm() < 1e-2 * expected.norm()  # bfloat16 has 8 bits


@needs_gpu
@pytest.mark.parametrize("length", [0, 7, 200, 1023])
def test_decode_attention_kernel(length):
    torch.manual_seed(0)
    make = lambda *shape: torch.randn(shape, device="cuda", dtype=torch.bfloat16)  # noqa: E731
    tensors = [make(2, 2, 1024, 64), make(2, 2, 1024, 64), make(2, 8, 1, 64), make(2, 2, 1, 64), make(2, 2, 1, 64)]
    angles, slot = [make(2, 1, 1, 64), make(2, 1, 1, 64)], torch.tensor([length], device="cuda")
    wide = [tensor.double() for tensor in tensors]
    actual = torch.ops.graphwright.decode_attention(*tensors, slot, *angles, None, scale=0.125)
    expected = attention.reference(*wide, slot, *(angle.double() for angle in angles), None, scale=0.125)
    assert (actual - expected).norm() < 1e-2 * expected.norm()
    assert (tensors[0] - wide[0]).norm() < 1e-2 * wide[0].norm()
